"""The error for a file that cannot become a waveform, and its possible reasons."""

from __future__ import annotations

from typing import Literal, get_args

Reason = Literal[
    "empty",  # no bytes at all
    "not_audio",  # no known audio format, or a container without an audio stream
    "undecodable",  # the decoder gave up
    "truncated",  # fewer samples than the header states
    "length_mismatch",  # more samples than the header states
    "trailing_data",  # the stated audio ends before the file does, and the rest is no known chunk or tag
    "absurd_rate",  # outside MIN_SAMPLE_RATE … MAX_SAMPLE_RATE
    "too_long",  # longer than the caller's limit
    "too_large",  # more bytes than are read into memory
    "too_short",  # shorter than one frame of the front end
    "outside",  # the segment begins or ends beyond the end of the audio
    "cancelling",  # the channels cancel each other in the downmix
    "silent",  # the downmix varies by less than one step of PCM16
    "not_finite",  # NaN or infinity among the samples
    "crashes_decoder",  # the decoding process died
    "hangs_decoder",  # no result within the time limit
]
REASONS: tuple[str, ...] = get_args(Reason)


class AudioError(ValueError):
    """A file that cannot become a waveform: `reason` is one of `REASONS`, the message adds file and detail."""

    def __init__(self, reason: Reason, name: str, detail: str) -> None:
        super().__init__(reason, name, detail)
        self.reason: Reason = reason
        self.name = name
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}: {self.detail}"
