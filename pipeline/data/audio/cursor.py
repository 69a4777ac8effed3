"""Read segments of an open file in ascending order, and check their lengths."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.data.audio.codec_names import LOSSLESS
from pipeline.data.audio.containers.extent import Extent
from pipeline.data.audio.containers.tolerances import ENCODER_DELAY_S
from pipeline.data.audio.errors import AudioError, Reason
from pipeline.data.audio.reader import Header, Reader, Samples


class Cursor:
    """A decoder and how far it has come."""

    def __init__(self, reader: Reader, decoder: str, header: Header, extent: Extent) -> None:
        self.reader, self.decoder, self.header, self.extent = reader, decoder, header, extent
        self.position = 0
        """Samples per channel that have been returned or passed over."""
        self._blocks = reader.blocks()
        self._block: Samples | None = None

    def segment(self, start: int, end: int | None, max_seconds: float) -> Iterator[Samples]:
        """Yield the samples of a segment; check its length against the structure of the file and the limit.

        Raises:
            AudioError: outside, too_long, truncated, length_mismatch, too_short, or what the decoder raises.
        """
        header, name = self.header, self.reader.name
        if start < 0 or (end is not None and end <= start):
            raise ValueError(f"{name}: no segment from {start} to {end}")
        stated = header.num_samples
        if stated is not None and 0 < stated <= start:
            raise AudioError("outside", name, f"the segment begins at {start}, the audio ends at {stated}")
        # An estimate of the decoder is no reason to refuse a file; the samples are counted below.
        seconds = header.seconds if stated is not None else 0.0
        if end is not None:
            seconds = (end - start) / header.sample_rate
        if seconds > max_seconds:
            raise AudioError("too_long", name, f"{seconds:.0f} s; the limit is {max_seconds:.0f} s")
        count = 0
        for block in self._read(start, end):
            count += len(block)
            if count > max_seconds * header.sample_rate:
                raise AudioError("too_long", name, f"more than {max_seconds:.0f} s")
            yield block
        self._check_length(start, end)

    def _read(self, start: int, end: int | None) -> Iterator[Samples]:
        """Decode up to `end`, or the end of the audio, and yield what follows `start`."""
        while end is None or self.position < end:
            block = next(self._blocks, None) if self._block is None else self._block
            self._block = None
            if block is None:
                return
            first = min(max(start - self.position, 0), len(block))
            last = len(block) if end is None else min(end - self.position, len(block))
            if last < len(block):
                self._block = block[last:]
            self.position += last
            if first < last:
                yield block[first:last]

    def _check_length(self, start: int, end: int | None) -> None:
        """Compare the end of the audio, or of the segment, with what the file promises."""
        name, promised, decoded = self.reader.name, self.header.num_samples, self.position
        tolerance = self._tolerance()
        if end is not None and decoded + tolerance < end:
            reason: Reason = "truncated" if promised is not None and end <= promised else "outside"
            raise AudioError(reason, name, f"the segment ends at {end}, the audio at {decoded}")
        if end is None and promised is not None and abs(decoded - promised) > tolerance:
            reason = "truncated" if decoded < promised else "length_mismatch"
            raise AudioError(reason, name, f"{decoded} samples; {promised} expected from the header")
        if decoded <= start:
            raise AudioError("too_short" if start == 0 else "outside", name, "no samples")

    def _tolerance(self) -> int:
        if self.extent.num_samples is not None:
            return self.extent.tolerance
        return 0 if self.extent.container in LOSSLESS else int(ENCODER_DELAY_S * self.header.sample_rate)
