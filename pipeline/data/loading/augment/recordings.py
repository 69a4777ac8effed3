"""Recordings of augmentation corpora in local tars; no more is read and decoded than the window that is needed."""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import decode_flac
from pipeline.data.audio.waveform import Waveform
from pipeline.data.store.layout import REBUILD_HINT
from pipeline.errors import InputError

MAX_OPEN_TARS = 64
"""Tar files of recordings that a worker keeps open."""

Source = tuple[tuple[str, ...], str]
"""Names of corpora, and one of `utterance.KINDS`."""


@dataclass(frozen=True, eq=False)
class Recordings:
    """Recordings of one kind; read-only. Each array is [N]."""

    tars: tuple[str, ...]
    """Paths on this machine."""
    shard: NDArray[np.int32]
    """Position in `tars`."""
    offset: NDArray[np.int64]
    """First byte of the FLAC in the tar."""
    num_bytes: NDArray[np.int32]
    """Length of the FLAC."""
    num_samples: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, number: int, start: int = 0, end: int | None = None) -> Waveform:
        """Decode the samples of a recording from `start` up to `end`.

        Raises:
            InputError: its shard is missing or damaged.
        """
        path = self.tars[self.shard[number]]
        try:
            file = cast("BinaryIO", _Part(_open(path), int(self.offset[number]), int(self.num_bytes[number])))
            return decode_flac(file, start=start, end=end)
        except (FileNotFoundError, AudioError) as error:
            state = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
            raise InputError(
                f"{path}: this shard of recordings for augmentation {state}; {REBUILD_HINT}"
            ) from error

    def draw_whole(self, rng: np.random.Generator) -> Waveform:
        """Draw a recording."""
        return self.read(int(rng.integers(len(self))))

    def draw_window(self, num_samples: int, rng: np.random.Generator) -> Waveform:
        """Draw a recording and a window of it; a shorter recording is repeated from a random sample on."""
        number, place = int(rng.integers(len(self))), rng.random()
        length = int(self.num_samples[number])
        if length >= num_samples:
            start = int(place * (length - num_samples + 1))
            return self.read(number, start, start + num_samples)
        return np.resize(np.roll(self.read(number), -int(place * length)), num_samples)


@functools.lru_cache(MAX_OPEN_TARS)
def _open(path: str) -> _OpenFile:
    return _OpenFile(path)


class _OpenFile:
    """An open file that is closed with its last user."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Part(io.RawIOBase):
    """Consecutive bytes of an open file as a file of their own, of which only what is needed is read."""

    def __init__(self, file: _OpenFile, begin: int, num_bytes: int) -> None:
        self._file, self._begin, self._num_bytes, self._position = file, begin, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._num_bytes - self._position))
        data = os.pread(self._file.number, wanted, self._begin + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
