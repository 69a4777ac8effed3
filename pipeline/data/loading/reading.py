"""The bytes of shards → the rows of a batch: read, decoded, cropped, augmented, normalised, padded with zeros.

What a worker of the loader does, without torch, so that a worker starts in a moment.
"""

from __future__ import annotations

import math
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import decode_flac
from pipeline.data.audio.waveform import Waveform
from pipeline.errors import InputError
from pipeline.storage import Folder

# B: utterances, T: samples at 16 kHz.

Augment = Callable[[Waveform, np.random.Generator], Waveform]
"""Changes a waveform but not its length; the generator is seeded by (seed, epoch, uid, draw)."""

OPEN_TARS = 256
"""Tars a worker keeps open, well below the usual limit of 1024 files."""

REQUESTS = 32
"""Ranged requests a worker keeps in flight on S3."""

EPSILON = 1e-5
"""Added to the variance, as in the layer norm the encoders were trained with."""

_ONES = np.ones(4096, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Reads:
    """All that it takes to make a batch; arrays and lists are [B]."""

    shards: list[str]
    offset: list[int]
    num_bytes: list[int]
    uid: list[str]
    label: NDArray[np.int8]
    stored_samples: list[int]
    num_samples: list[int]
    """After cropping."""
    crop_start: list[float]
    """Where a crop begins, as a fraction in [0, 1) of the places it can begin at."""
    augment_seed: list[int]
    padded_samples: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the batch: [B, T]."""
        return len(self.uid), self.padded_samples


class BatchReader:
    """Fills batches; pickled as what it was made of, before it reads."""

    def __init__(self, folder: Folder, augment: Augment | None):
        self._source = _LocalSource(folder) if folder.is_local else _RemoteSource(folder)
        self.augment = augment

    def expect(self, reads: Reads) -> None:
        """Ask for what will be read soon; batches are read in the order in which they are expected."""
        self._source.expect(reads)

    def read(self, reads: Reads, waveform_BT: NDArray[np.float32], num_samples_B: NDArray[np.int64]) -> None:
        """Fill a batch that was expected, and say how many samples of each row are audio.

        Raises:
            InputError: a shard is missing or damaged.
        """
        for position, data in enumerate(self._source.read(reads)):
            row = waveform_BT[position]
            waveform = self._waveform(reads, position, data, row)
            normalise(waveform, row[: len(waveform)])
            row[len(waveform) :] = 0
            num_samples_B[position] = len(waveform)

    def close(self) -> None:
        """Give up what was expected."""
        self._source.close()

    def _waveform(self, reads: Reads, position: int, data: bytes, row: Waveform) -> Waveform:
        """The waveform that the detector shall hear; `row` may serve as memory for it."""
        try:
            waveform = _decode(reads, position, data, row)
        except AudioError as error:
            raise InputError(
                f"{reads.shards[position]}: utterance {reads.uid[position]} cannot be read ({error}); "
                "the shard is damaged: build it again"
            ) from error
        if self.augment is None:
            return waveform
        augmented = self.augment(waveform, np.random.default_rng(reads.augment_seed[position]))
        assert augmented.shape == waveform.shape, "an augmentation keeps the length"
        return augmented


def _decode(reads: Reads, position: int, data: bytes, row: Waveform) -> Waveform:
    stored, wanted = reads.stored_samples[position], reads.num_samples[position]
    if wanted < stored:
        start = int(reads.crop_start[position] * (stored - rounding(stored) - wanted + 1))
        return decode_flac(data, start=start, end=start + wanted, out=row)
    waveform = decode_flac(data, out=row)
    if abs(len(waveform) - stored) > rounding(stored):
        raise AudioError("length_mismatch", "flac in a shard", f"{len(waveform)} of {stored} samples")
    return waveform


def normalise(waveform: Waveform, out: Waveform) -> None:
    """Give a waveform mean 0 and variance 1, as layer norm does; `out` is of its length and may be the same."""
    np.subtract(waveform, np.float32(_sum(waveform) / len(waveform)), out=out)
    out *= np.float32(1 / math.sqrt(_sum(out, is_squared=True) / len(out) + EPSILON))


def _sum(waveform: Waveform, *, is_squared: bool = False) -> float:
    """The sum of the samples or of their squares, by BLAS: four times as fast as by NumPy.

    Blocks are too short for BLAS to share them between threads, so the sum is the same on any number of cores.
    """
    whole = len(waveform) // len(_ONES) * len(_ONES)
    blocks, rest = waveform[:whole].reshape(-1, len(_ONES)), waveform[whole:]
    sums = np.vecdot(blocks, blocks if is_squared else _ONES)
    return float(sums.sum(dtype=np.float64)) + float(np.dot(rest, rest if is_squared else _ONES[: len(rest)]))


def rounding(num_samples: int) -> int:
    """How far a length may be off that was kept as float32 seconds: nothing up to 2²³ samples."""
    return num_samples >> 23


class _LocalSource:
    """Reads ranges of local tars, which stay open."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._files: OrderedDict[str, int] = OrderedDict()

    def expect(self, reads: Reads) -> None:
        """Nothing: the disk answers at once."""

    def read(self, reads: Reads) -> Iterator[bytes]:
        """The FLAC of each utterance."""
        if sys.platform == "linux":
            # What is not in memory is fetched while the utterances before it are decoded.
            for shard, offset, num_bytes in zip(reads.shards, reads.offset, reads.num_bytes, strict=True):
                os.posix_fadvise(self._file(shard), offset, num_bytes, os.POSIX_FADV_WILLNEED)
        for shard, offset, num_bytes in zip(reads.shards, reads.offset, reads.num_bytes, strict=True):
            yield _checked(os.pread(self._file(shard), num_bytes, offset), num_bytes, shard)

    def _file(self, shard: str) -> int:
        if shard not in self._files:
            if len(self._files) == OPEN_TARS:
                os.close(self._files.popitem(last=False)[1])
            try:
                self._files[shard] = os.open(self._folder.location(shard), os.O_RDONLY)
            except FileNotFoundError:
                raise InputError(f"{self._folder.location(shard)} is in the snapshot but not there") from None
        self._files.move_to_end(shard)
        return self._files[shard]

    def close(self) -> None:
        """Close the tars."""
        while self._files:
            os.close(self._files.popitem()[1])


class _RemoteSource:
    """Reads ranges of tars on S3: those of this batch and of the expected ones are on their way together."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[list[Future[bytes]]] = deque()

    def expect(self, reads: Reads) -> None:
        """Send the requests for a batch."""
        # Threads cannot be sent to a worker: they start where they are needed.
        self._pool = self._pool or ThreadPoolExecutor(REQUESTS)
        requests = zip(reads.shards, reads.offset, reads.num_bytes, strict=True)
        self._coming.append(
            [
                self._pool.submit(self._folder.read, shard, offset, offset + num)
                for shard, offset, num in requests
            ]
        )

    def read(self, reads: Reads) -> Iterator[bytes]:
        """The FLAC of each utterance."""
        for future, num_bytes, shard in zip(
            self._coming.popleft(), reads.num_bytes, reads.shards, strict=True
        ):
            yield _checked(future.result(), num_bytes, shard)

    def close(self) -> None:
        """Take back the requests that are not sent yet."""
        self._coming.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _checked(data: bytes, num_bytes: int, shard: str) -> bytes:
    if len(data) != num_bytes:
        raise InputError(f"{shard} ends too early: {len(data)} of {num_bytes} bytes; build it again")
    return data
