"""Files that are a chain of elements, each with its length in front: the walk that they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.data.audio.errors import AudioError


def walk(
    data: bytes, begin: int, end_of: Callable[[bytes, int], int | None], name: str, container: str
) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each element; the last one must end with the data, or with zeros behind it.

    Args:
        data: the span of the file.
        begin: first element.
        end_of: returns the end of the element at a position; None if no element is there.
        name: file name for error messages.
        container: container for error messages.

    Raises:
        AudioError: truncated, trailing_data.
    """
    position = begin
    while position < len(data):
        end = end_of(data, position)
        if end is None or end <= position:
            if data.count(0, position) == len(data) - position:
                return
            left = len(data) - position
            raise AudioError(
                "trailing_data", name, f"{container}: {left} bytes from byte {position} are unknown"
            )
        if end > len(data):
            detail = f"{container}: {end - len(data)} bytes of the element at byte {position} are missing"
            raise AudioError("truncated", name, detail)
        yield position, end
        position = end
