"""Read the utterances of a batch from shards: fetch, decode, crop, augment, normalise and pad with zeros.

This is all that a loader worker does. The module does not import torch, so that workers start quickly.
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
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.store.layout import REBUILD_HINT
from pipeline.errors import InputError
from pipeline.storage import Folder

# B: utterances, T: samples at 16 kHz.

Augment = Callable[[Waveform, str, np.random.Generator], Waveform]
"""Returns a changed waveform of the same length, given the label of the utterance; the generator is seeded by (seed,
epoch, uid, repeat)."""

MAX_OPEN_TARS = 256
"""Tar files that a worker keeps open, well below the usual limit of 1024 open files."""

MAX_REQUESTS = 32
"""Concurrent ranged requests of a worker to S3."""

EPSILON = 1e-5
"""Added to the variance, as in the layer norm that the encoders were trained with."""

_ONES = np.ones(4096, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class BatchRequest:
    """Everything a worker needs to make one batch; arrays and lists are [B]."""

    shards: list[str]
    offset: list[int]
    num_bytes: list[int]
    uid: list[str]
    label: NDArray[np.int8]
    """Labels of the crops."""
    stored_samples: list[int]
    """Length in the shard."""
    num_samples: list[int]
    """Length after cropping."""
    crop_start: list[int]
    """First sample of the crop."""
    augment_seed: list[int]
    padded_samples: int
    """Length to which all utterances are padded."""
    frame_label: NDArray[np.int8] | None = None
    """[B, F] label of each frame of 20 ms, or -1; see `frame_labels`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape [B, T] of the padded batch."""
        return len(self.uid), self.padded_samples


class BatchReader:
    """Reads batches; can be pickled until it has read something."""

    def __init__(self, folder: Folder, augment: Augment | None):
        self._shards = _LocalShards(folder) if folder.is_local else _RemoteShards(folder)
        self.augment = augment

    def prefetch(self, request: BatchRequest) -> None:
        """Start to fetch a batch; batches must be read in the order in which they were prefetched."""
        self._shards.prefetch(request)

    def read(
        self, request: BatchRequest, waveform_BT: NDArray[np.float32], num_samples_B: NDArray[np.int64]
    ) -> None:
        """Read a prefetched batch into the given arrays: padded waveforms and their lengths.

        Raises:
            InputError: a shard is missing or damaged.
        """
        for position, data in enumerate(self._shards.read(request)):
            row = waveform_BT[position]
            waveform = self._load_waveform(request, position, data, row)
            normalise(waveform, row[: len(waveform)])
            row[len(waveform) :] = 0
            num_samples_B[position] = len(waveform)

    def close(self) -> None:
        """Close files and cancel pending requests."""
        self._shards.close()

    def _load_waveform(self, request: BatchRequest, position: int, data: bytes, buffer: Waveform) -> Waveform:
        """Decode, crop and augment one utterance; the result may be a view of `buffer`."""
        try:
            waveform = _decode(request, position, data, buffer)
        except AudioError as error:
            raise InputError(
                f"{request.shards[position]}: cannot decode utterance {request.uid[position]} ({error}); "
                f"the shard is damaged; {REBUILD_HINT}"
            ) from error
        if self.augment is None:
            return waveform
        label, rng = LABELS[request.label[position]], np.random.default_rng(request.augment_seed[position])
        augmented = self.augment(waveform, label, rng)
        assert augmented.shape == waveform.shape, "an augmentation must keep the length"
        return augmented


def _decode(request: BatchRequest, position: int, data: bytes, buffer: Waveform) -> Waveform:
    stored, num_samples = request.stored_samples[position], request.num_samples[position]
    if num_samples < stored:
        start = request.crop_start[position]
        return decode_flac(data, start=start, end=start + num_samples, out=buffer)
    waveform = decode_flac(data, out=buffer)
    if abs(len(waveform) - stored) > length_tolerance(stored):
        raise AudioError("length_mismatch", "flac in a shard", f"{len(waveform)} of {stored} samples")
    return waveform


def normalise(waveform: Waveform, out: Waveform) -> None:
    """Scale a waveform to mean 0 and variance 1, as layer norm does; `out` may be the waveform itself."""
    np.subtract(waveform, np.float32(_sum(waveform) / len(waveform)), out=out)
    out *= np.float32(1 / math.sqrt(_sum(out, is_squared=True) / len(out) + EPSILON))


def _sum(waveform: Waveform, *, is_squared: bool = False) -> float:
    """Sum the samples or their squares with BLAS, four times as fast as NumPy's own sum.

    Blocks are too short for BLAS to split them between threads, so the sum is the same on any number of cores.
    """
    whole = len(waveform) // len(_ONES) * len(_ONES)
    blocks, rest = waveform[:whole].reshape(-1, len(_ONES)), waveform[whole:]
    sums = np.vecdot(blocks, blocks if is_squared else _ONES)
    return float(sums.sum(dtype=np.float64)) + float(np.dot(rest, rest if is_squared else _ONES[: len(rest)]))


def length_tolerance(num_samples: int) -> int:
    """Error of a length that was stored as float32 seconds, in samples: 0 below 2²³ samples."""
    return num_samples >> 23


class _LocalShards:
    """Reads byte ranges of local tar files and keeps the files open."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._files: OrderedDict[str, int] = OrderedDict()

    def prefetch(self, request: BatchRequest) -> None:
        """Do nothing: `read` asks the kernel to read ahead within a batch, which is enough for a disk."""

    def read(self, request: BatchRequest) -> Iterator[bytes]:
        """Yield the FLAC of each utterance."""
        ranges = list(zip(request.shards, request.offset, request.num_bytes, strict=True))
        if sys.platform == "linux":
            # The kernel reads what is not cached while earlier utterances are being decoded.
            for shard, offset, num_bytes in ranges:
                os.posix_fadvise(self._file(shard), offset, num_bytes, os.POSIX_FADV_WILLNEED)
        for shard, offset, num_bytes in ranges:
            yield _check_size(os.pread(self._file(shard), num_bytes, offset), num_bytes, shard)

    def _file(self, shard: str) -> int:
        if shard not in self._files:
            if len(self._files) == MAX_OPEN_TARS:
                os.close(self._files.popitem(last=False)[1])
            path = self._folder.location(shard)
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise _missing(path) from None
        self._files.move_to_end(shard)
        return self._files[shard]

    def close(self) -> None:
        """Close the tar files."""
        while self._files:
            os.close(self._files.popitem()[1])


class _RemoteShards:
    """Reads byte ranges of tar files on S3, with the requests of all prefetched batches in flight together."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[list[Future[bytes]]] = deque()

    def prefetch(self, request: BatchRequest) -> None:
        """Send the ranged requests of a batch."""
        # Threads cannot be pickled, so the pool is created in the worker.
        self._pool = self._pool or ThreadPoolExecutor(MAX_REQUESTS)
        ranges = zip(request.shards, request.offset, request.num_bytes, strict=True)
        self._pending.append(
            [
                self._pool.submit(self._folder.read, shard, offset, offset + num_bytes)
                for shard, offset, num_bytes in ranges
            ]
        )

    def read(self, request: BatchRequest) -> Iterator[bytes]:
        """Yield the FLAC of each utterance."""
        futures = self._pending.popleft()
        for future, num_bytes, shard in zip(futures, request.num_bytes, request.shards, strict=True):
            try:
                data = future.result()
            except FileNotFoundError:
                raise _missing(self._folder.location(shard)) from None
            yield _check_size(data, num_bytes, shard)

    def close(self) -> None:
        """Cancel the requests that have not been sent."""
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _missing(location: str) -> InputError:
    return InputError(f"{location}: the snapshot lists this shard, but it is missing; {REBUILD_HINT}")


def _check_size(data: bytes, num_bytes: int, shard: str) -> bytes:
    if len(data) != num_bytes:
        raise InputError(
            f"{shard}: the shard is truncated ({len(data)} bytes instead of {num_bytes}); {REBUILD_HINT}"
        )
    return data
