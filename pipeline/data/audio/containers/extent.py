"""Where the audio of a file is, according to the file itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a file between the tags that any format may have at its ends."""

    begin: int
    """First byte after ID3v2 tags and padding."""
    end: int
    """One past the last byte before ID3v1, APE and Lyrics3 tags."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a decoder is given of a file, and how much audio it must return."""

    begin: int
    """First byte for the decoder."""
    end: int
    """One past the last byte for the decoder."""
    container: str
    """The container that the decoder finds there: that of the file, or of the stream inside (`mp3` in a wav)."""
    codec: str = ""
    """The codec, where the structure tells it; empty: only the decoder can tell."""
    header: bytes = b""
    """What the decoder reads before those bytes: a header with correct lengths in place of the wrong one."""
    num_samples: int | None = None
    """Samples per channel that the structure states or counts; None if only decoding can tell."""
    rate: int = 0
    """Units per second in which `num_samples` counts; 0: samples at the rate of the decoder."""
    tolerance: int = 0
    """How many samples more or fewer a correct decoder may return; see `tolerances`."""
    damage_shortens: bool = False
    """A decoder that passes over what is damaged returns fewer samples: nothing else in the file can take its place."""
