"""How many bytes of samples a file holds: what its header states, held against the bytes that are there.

The formats of this rule state the length of their samples, in bytes or samples, and put nothing but chunks, tags and
padding behind them: wav, aiff, au and their like. Where the stated length is wrong in a way that tools are known for,
the samples are found by the structure of the file; where it is wrong in another way, the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.padding import is_padding
from pipeline.data.audio.errors import AudioError

_PLACEHOLDERS = (0x7F000000, 0x80000000, 0xFFFFFFFF)
_PLACEHOLDER_MARGIN = 1 << 16  # writers to a pipe take off or add their header, and round to a whole block
_LONGEST = 1 << 62  # longer lengths, negative ones among them, are placeholders of formats with 64 bits
_TAIL_BYTES = 1 << 16
_MAX_CHUNKS = 4096
_NAME_BYTES = 4
_ALIGNMENT = 8  # bytes; some writers pad samples to a multiple of it

_KNOWN_CHUNKS = (
    *("LIST", "list", "DISP", "id3 ", "ID3 ", "ID32", "bext", "iXML", "aXML", "axml", "_PMX", "cart"),
    *("cue ", "smpl", "inst", "plst", "note", "labl", "ltxt", "fact", "PEAK", "levl", "acid", "strc", "umid"),
    *("JUNK", "junk", "PAD ", "FLLR", "fllr", "free", "afsp", "minf", "elm1", "regn", "chna", "link", "slnt"),
    *(
        "COMM",
        "FVER",
        "VHDR",
        "MARK",
        "COMT",
        "INST",
        "MIDI",
        "APPL",
        "NAME",
        "AUTH",
        "(c) ",
        "ANNO",
        "CHAN",
        "SAXL",
        "basc",
        "trns",
    ),
    *("mark", "strg", "info", "midi", "ovvw", "peak", "pakt", "kuki", "chan", "edct", "uuid"),
)
_KNOWN_CHUNK = re.compile(b"|".join(re.escape(name.encode()) for name in _KNOWN_CHUNKS))
"""Names of chunks that tools write behind samples."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a file; its content may end beyond the file."""

    name: bytes
    begin: int
    length: int
    is_aligned: bool = True
    """Whether it begins where the padding of the chunk in front ends; decoders find no other chunks."""

    @property
    def end(self) -> int:
        """One past the last byte of the content."""
        return self.begin + self.length


@dataclass(frozen=True, slots=True)
class Framing:
    """How a family of formats writes its chunks: a head with name and length, then the content."""

    head_bytes: int
    parse: Callable[[bytes], tuple[bytes, int] | None]
    """Return name and length of the content; None if this is no head of a chunk."""
    alignment: int
    """The content is padded to a multiple of this."""
    essential: frozenset[bytes]
    """Chunks that a decoder needs, and forms of whole files; what follows samples is none of these."""

    def padded_end(self, chunk: Chunk) -> int:
        """Return where the chunk behind `chunk` begins."""
        return chunk.begin + -(-chunk.length // self.alignment) * self.alignment


@dataclass(frozen=True, slots=True)
class Samples:
    """What a header says about its samples."""

    begin: int
    """First byte of the samples."""
    num_bytes: int | None
    """Stated length; None if the format has no field for it, or the writer left it open."""
    block_bytes: int
    """Bytes of a block: one sample of each channel, or what the codec compresses together."""
    block_samples: int | None
    """Samples per channel in a block; None if only decoding can tell."""
    covers_file: bool = False
    """Whether another length of the header agrees with the file: nothing was lost or added after it was written."""
    max_excess: int = 0
    """How many bytes the length may state too many."""
    miscounts: frozenset[int] = frozenset()
    """Bytes per unit that writers are known to count instead of bytes: samples, frames."""


def chunks(file: BinaryIO, begin: int, end: int, framing: Framing) -> Iterator[Chunk]:
    """Yield the chunks from `begin` on; the last one may end beyond `end`."""
    return _following(file, Chunk(b"", begin, 0), end, framing)


def _following(file: BinaryIO, chunk: Chunk, end: int, framing: Framing) -> Iterator[Chunk]:
    """Yield the chunks behind a chunk, until the next bytes are none.

    Content of odd length is followed by a pad byte, which some writers forget.
    """
    for _ in range(_MAX_CHUNKS):
        padded = framing.padded_end(chunk)
        following = _chunk_at(file, padded, end, framing)
        if padded != chunk.end and not _is_expected(following, framing):
            unpadded = _chunk_at(file, chunk.end, end, framing)
            if unpadded is not None and _is_expected(unpadded, framing):
                following = replace(unpadded, is_aligned=False)
        if following is None:
            return
        yield following
        chunk = following


def _chunk_at(file: BinaryIO, position: int, end: int, framing: Framing) -> Chunk | None:
    if position + framing.head_bytes > end:
        return None
    file.seek(position)
    head = framing.parse(file.read(framing.head_bytes))
    return head and Chunk(head[0], position + framing.head_bytes, head[1])


def _is_expected(chunk: Chunk | None, framing: Framing) -> bool:
    return chunk is not None and (chunk.name in framing.essential or _is_known(chunk.name))


def miscounts(block_bytes: int, num_channels: int) -> frozenset[int]:
    """Return what PCM writers are known to count instead of bytes: samples, frames, or bytes of one channel."""
    return frozenset({block_bytes, block_bytes // num_channels, num_channels}) - {1}


def is_name(name: bytes) -> bool:
    """Whether four bytes can be the name of a chunk: printable ASCII."""
    return len(name) == _NAME_BYTES and all(0x20 <= byte < 0x7F for byte in name)


def _is_known(name: bytes) -> bool:
    return _KNOWN_CHUNK.fullmatch(name) is not None


def locate_samples(
    file: BinaryIO,
    span: Span,
    name: str,
    samples: Samples,
    framing: Framing | None,
    extent: Extent,
    build_header: Callable[[int], bytes],
    *,
    is_whole: bool,
    is_regular: bool = True,
) -> Extent:
    """Find the end of the samples, and give the decoder a corrected header where the one of the file is wrong.

    Args:
        file: open for reading.
        span: the file without tags at its ends.
        name: file name for error messages.
        samples: what the header states.
        framing: how chunks behind the samples are written; None if the format has none.
        extent: container, codec and tolerance of the result.
        build_header: returns the header of a file with this many bytes of samples.
        is_whole: whether all bytes may be read.
        is_regular: whether decoders understand the header of the file if its length is right.

    Raises:
        AudioError: truncated, trailing_data.
    """
    tail = _Tail(file, span.end, framing, is_whole)
    end, last = _explained_end(tail, name, samples) or (_corrected_end(tail, name, samples), None)
    num_blocks, remainder = divmod(end - samples.begin, samples.block_bytes)
    if remainder >= _ALIGNMENT and samples.block_samples != 1:
        detail = f"the last block has {remainder} of {samples.block_bytes} bytes"
        raise AudioError("truncated", name, detail)
    end = samples.begin + num_blocks * samples.block_bytes
    if samples.block_samples is not None:
        extent = replace(extent, num_samples=num_blocks * samples.block_samples)
    if is_regular and last is not None and end - samples.begin == samples.num_bytes:
        return replace(extent, begin=span.begin, end=last)
    if is_regular and samples.num_bytes is None:
        return replace(extent, begin=span.begin, end=span.end)
    return replace(extent, begin=samples.begin, end=end, header=build_header(end - samples.begin))


def _explained_end(tail: _Tail, name: str, samples: Samples) -> tuple[int, int] | None:
    """Return the end of the stated samples and of the chunks behind them; None if there is more than padding behind.

    Raises:
        AudioError: trailing_data.
    """
    begin, stated, available = samples.begin, samples.num_bytes, tail.end - samples.begin
    if stated is None or stated > available:
        return None
    end = begin + stated
    last = tail.after_chunks(Chunk(b"", begin, stated))
    if last is None:
        detail = f"another file or data chunk behind {stated} bytes of samples"
        raise AudioError("trailing_data", name, detail)
    # Zeros are padding, unless they are silence at the end of audio whose length is miscounted.
    is_miscounted = available in {stated * unit for unit in samples.miscounts}
    if last < tail.end and (
        is_miscounted or not is_padding(tail.file, last, tail.end, is_whole=tail.is_whole)
    ):
        return None
    if end < last:  # a length that is a few bytes too long ends within the chunk behind the samples
        end = tail.begin_of_chunks(max(begin, end - samples.max_excess), end) or end
    return end, last


def _corrected_end(tail: _Tail, name: str, samples: Samples) -> int:
    """Return the end of samples whose stated length is missing or wrong.

    Raises:
        AudioError: truncated, trailing_data.
    """
    begin, stated = samples.begin, samples.num_bytes
    end = tail.begin_of_chunks(max(begin, tail.end - _TAIL_BYTES), tail.end) or tail.end
    actual = end - begin
    if not stated or (stated > actual and is_placeholder(stated)):
        return end
    if stated > actual:
        if _is_excess(stated - actual, samples.max_excess) and actual % samples.block_bytes == 0:
            return end
        raise AudioError("truncated", name, f"the header states {stated} bytes of samples, {actual} follow")
    if samples.covers_file or actual in {stated * unit for unit in samples.miscounts}:
        return end
    num_unknown = tail.end - begin - stated
    detail = f"{stated} bytes of samples as stated, then {num_unknown} that are no chunk, tag or padding"
    raise AudioError("trailing_data", name, detail)


def _is_excess(num_bytes: int, most: int) -> bool:
    """Whether a header that states so many bytes too many counts some of its own fields, all of even size."""
    return num_bytes <= most and num_bytes % 2 == 0


def is_placeholder(stated: int) -> bool:
    """Whether a length is one that writers put in place of an unknown one; to be asked if it exceeds the file."""
    return stated > _LONGEST or any(abs(stated - value) <= _PLACEHOLDER_MARGIN for value in _PLACEHOLDERS)


@dataclass(frozen=True, slots=True)
class _Tail:
    """The end of a file, behind its samples."""

    file: BinaryIO
    end: int
    framing: Framing | None
    is_whole: bool

    def after_chunks(self, chunk: Chunk) -> int | None:
        """Return the end of the chunks behind a chunk; None if samples of another file begin among them."""
        if self.framing is None:
            return chunk.end
        for following in _following(self.file, chunk, self.end, self.framing):
            if following.name in self.framing.essential:
                return None
            if following.end > self.end:  # the end of a known chunk was cut off, behind the samples
                return self.end if _is_known(following.name) else chunk.end
            chunk = following
        return self.end if self.framing.padded_end(chunk) >= self.end else chunk.end

    def begin_of_chunks(self, first: int, last: int) -> int | None:
        """Return the offset in a range where known chunks begin that reach to the end of the file."""
        if self.framing is None:
            return None
        self.file.seek(first)
        for match in _KNOWN_CHUNK.finditer(self.file.read(min(last + _NAME_BYTES - 1, self.end) - first)):
            chunk = _chunk_at(self.file, first + match.start(), self.end, self.framing)
            if chunk is not None and chunk.end <= self.end and self.after_chunks(chunk) == self.end:
                return first + match.start()
        return None
