"""Every tolerance of the audio checks, with its reason; `docs/audio.md` shows the same table."""

from __future__ import annotations

ENCODER_DELAY_S = 0.1
"""Lossy codecs add priming and padding that decoders trim or return, differently."""

RIFF_EXCESS_BYTES = 44
"""Some recorders count the header itself as samples; so few bytes hold no more than a millisecond or two."""

OPUS_SAMPLES = 1
"""Opus counts at 48 kHz, so the length at the rate of the decoder is rounded."""

SPEEX_SAMPLES = 512
"""Speex files state the delay of their encoder nowhere; it is 80 to 512 samples, depending on the mode."""
