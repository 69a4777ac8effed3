"""Every tolerance of the audio checks, with its reason; `docs/audio.md` shows the same table."""

from __future__ import annotations

ENCODER_DELAY_S = 0.1
"""Lossy codecs add priming and padding that decoders trim or return, differently."""

EXCESS_BYTES = 44
"""Some writers of wav, aiff and au count parts of the header as samples; so few bytes hold one or two milliseconds."""
