"""Every tolerance of the audio checks, with its reason; `docs/audio.md` shows the same table."""

from __future__ import annotations

EXCESS_BYTES = 44
"""Some writers of wav, aiff and au count parts of the header as samples; so few bytes hold a millisecond or two."""

PADDING_BYTES = 8192
"""Zeros in front of the audio, or behind the last tag, are padding of recorders and downloads."""

LEADING_JUNK_BYTES = 4096
"""MPEG audio, AAC and AC-3 may begin with the end of a frame or other bytes; all decoders pass them over."""

JOINED_PADDING_BYTES = 1024
"""Zeros between joined files; libsndfile gives up after more of them."""

MP3_TABLE_BYTES = 4096
"""Some encoders count a tag among the bytes that the table of an mp3 states."""

ENCODER_DELAY_S = 0.1
"""Lossy codecs add priming and padding, which decoders trim or return; used where nothing states how much."""

LEADING_LOSS_S = 0.25
"""A stream that was cut out of a longer one begins with packets that need earlier ones; players skip them as well."""

BOXED_PRIMING_SAMPLES = 6 * 1024
"""The index of an mp4 counts priming and padding, which decoders trim: up to 2112 samples of AAC in front and a frame
behind, twice as many where SBR doubles the rate; 3840 of Opus. Whether packets are missing is seen without it."""

MATROSKA_DURATION_S = 2.0
"""The duration of a Matroska file ends with its last packet, of which the file states only the beginning."""

ASF_DELAY_SAMPLES = 3 * 2048
"""The duration of a WMA file ends with its last packet; decoders return one frame of 2048 samples more or less."""

OPUS_SAMPLES = 1
"""Opus counts at 48 kHz, so the length at the rate of the decoder is rounded."""

SPEEX_SAMPLES = 512
"""Speex files state the delay of their encoder nowhere; it is 80 to 512 samples, depending on the mode."""

CLOCK_JUMP_S = 0.1
"""The time stamp in a packet of an MPEG stream may count for the frame before or behind it: up to 72 ms of MP2."""
