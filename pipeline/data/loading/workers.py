"""Worker processes that fill batches ahead of the rank, in shared memory that is reused.

Worker k mod W makes batch k, so batches arrive in order. A worker writes into a slot of memory that it shares with
the rank, and the slot becomes free once the rank drops the array.

torch's DataLoader with the same plan and reader uses 40 to 50 % more processor time per batch (measured by `bonafide
benchmark loader`), mostly to allocate new shared memory for each one and copy the batch into it. Its workers also
import torch (280 MB each instead of 34 MB), fail if /dev/shm is small, and abort if the iterator is dropped mid-epoch.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.loading.reading import BatchReader, BatchRequest
from pipeline.errors import InputError

# B: utterances, T: samples at 16 kHz.

PREFETCH_FACTOR = 4
"""Batches that are requested ahead from each worker."""

MAX_HELD = 4
"""Batches of each worker that the rank may hold at once before it receives copies."""

SHUTDOWN_TIMEOUT_S = 10.0
"""A worker that has not exited after this time is killed."""

WORKER_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pipeline.data.loading.workers import worker_main
worker_main(int(sys.argv[2]), int(sys.argv[3]))
"""
"""Program of a worker; it imports modules from the same places as the rank."""


class BatchLimits(NamedTuple):
    """Upper bounds of every batch."""

    padded_samples: int
    """B · T."""
    num_utterances: int
    """B."""


@dataclass(frozen=True, slots=True, eq=False)
class FilledBatch:
    """A batch that has been read."""

    request: BatchRequest
    waveform: NDArray[np.float32]
    """[B, T]; its memory is reused once nothing refers to this array."""
    num_samples: NDArray[np.int64]
    """[B]"""


def fill_batches(
    reader: BatchReader, requests: Iterable[BatchRequest], num_workers: int, limits: BatchLimits
) -> Iterator[FilledBatch]:
    """Read batches in order, in worker processes or, with `num_workers` 0, in this one.

    Raises:
        InputError: a shard is missing or damaged.
        RuntimeError: a worker failed or died.
    """
    if num_workers:
        return _fill_in_workers(reader, iter(requests), num_workers, limits)
    return _fill_in_process(reader, requests, limits)


def _fill_in_process(
    reader: BatchReader, requests: Iterable[BatchRequest], limits: BatchLimits
) -> Iterator[FilledBatch]:
    slots = _Slots(1 + MAX_HELD, limits)
    queue: deque[BatchRequest] = deque()
    try:
        for request in requests:
            reader.prefetch(request)
            queue.append(request)
            if len(queue) > 1:
                yield _fill_slot(reader, queue.popleft(), slots)
        while queue:
            yield _fill_slot(reader, queue.popleft(), slots)
    finally:
        reader.close()


def _fill_slot(reader: BatchReader, request: BatchRequest, slots: _Slots) -> FilledBatch:
    slot = slots.acquire()
    reader.read(request, *slots.arrays(slot, request.shape))
    return slots.to_batch(slot, request)


def _fill_in_workers(
    reader: BatchReader, requests: Iterator[BatchRequest], num_workers: int, limits: BatchLimits
) -> Iterator[FilledBatch]:
    workers = [_Worker(reader, limits) for _ in range(num_workers)]
    try:
        for turn in range(PREFETCH_FACTOR * num_workers):
            workers[turn % num_workers].submit(next(requests, None))
        turn = 0
        while (batch := workers[turn % num_workers].result()) is not None:
            workers[turn % num_workers].submit(next(requests, None))
            yield batch
            turn += 1
    finally:
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()


class _Slots:
    """Shared memory for several batches; unused pages are never allocated."""

    def __init__(self, num_slots: int, limits: BatchLimits, file: int | None = None):
        num_bytes = limits.num_utterances * np.int64().nbytes + limits.padded_samples * np.float32().nbytes
        self._stride = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.file = _anonymous_file(num_slots * self._stride) if file is None else file
        self._memory = mmap.mmap(self.file, num_slots * self._stride)
        self._free = list(range(num_slots))

    def acquire(self) -> int:
        """Take the most recently used free slot, whose pages are allocated and may still be cached."""
        return self._free.pop()

    def arrays(self, slot: int, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """View the memory of a slot as waveforms [B, T] and their lengths [B]."""
        begin, end = slot * self._stride, (slot + 1) * self._stride
        waveform = np.frombuffer(self._memory, np.float32, shape[0] * shape[1], begin)
        lengths = np.frombuffer(self._memory, np.int64, shape[0], end - shape[0] * np.int64().nbytes)
        return waveform.reshape(shape), lengths

    def to_batch(self, slot: int, request: BatchRequest) -> FilledBatch:
        """Wrap a slot as a batch; the slot becomes free once nothing refers to its waveforms.

        If no other slot is free, the batch is a copy, so that there is always a slot to fill.
        """
        waveform_BT, num_samples_B = self.arrays(slot, request.shape)
        if self._free:
            weakref.finalize(waveform_BT, self._free.append, slot)
        else:
            waveform_BT = waveform_BT.copy()
            self._free.append(slot)
        return FilledBatch(request, waveform_BT, num_samples_B.copy())


def _anonymous_file(num_bytes: int) -> int:
    """Create a nameless file that disappears with its last user; not in /dev/shm, which Docker limits to 64 MB."""
    if sys.platform == "linux":
        file = os.memfd_create("batches")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, num_bytes)
    return file


class _Worker:
    """The rank's side of one worker, which returns results in the order of the requests."""

    def __init__(self, reader: BatchReader, limits: BatchLimits):
        num_slots = PREFETCH_FACTOR + MAX_HELD
        self._slots = _Slots(num_slots, limits)
        self._submitted: deque[tuple[BatchRequest, int]] = deque()
        self._connection, worker_connection = multiprocessing.Pipe()
        # A fork would copy locks held by threads of torch, Ray or s3fs. Spawning through multiprocessing would import
        # the rank's main module in every worker, which takes longer than all other imports of a worker.
        files = (worker_connection.fileno(), self._slots.file)
        command = [sys.executable, "-c", WORKER_PROGRAM, json.dumps(sys.path), *map(str, files)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=files)  # noqa: S603 - fixed command
        worker_connection.close()
        os.close(self._slots.file)
        self._send((reader, num_slots, limits))

    def submit(self, request: BatchRequest | None) -> None:
        """Request a batch; None, when there are no more requests, does nothing."""
        if request is not None:
            slot = self._slots.acquire()
            self._submitted.append((request, slot))
            self._send((request, slot))

    def result(self) -> FilledBatch | None:
        """Wait for the oldest requested batch; None if no request is outstanding."""
        if not self._submitted:
            return None
        request, slot = self._submitted.popleft()
        try:
            error = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._exit_error() from None
        if error is not None:
            raise error
        return self._slots.to_batch(slot, request)

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._exit_error() from None

    def _exit_error(self) -> RuntimeError:
        return RuntimeError(f"a loader worker died with exit code {self._process.wait()}")

    def close(self) -> None:
        """Close the connection, at which the worker exits."""
        self._connection.close()

    def join(self) -> None:
        """Wait until the worker has exited; kill it after a timeout."""
        try:
            self._process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def worker_main(connection_file: int, memory_file: int) -> None:
    """Fill batches until the rank closes the connection or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rank handles Ctrl-C and closes the connection
    connection: Connection = Connection(connection_file)
    reader, num_slots, limits = connection.recv()
    slots = _Slots(num_slots, limits, memory_file)
    queue: deque[tuple[BatchRequest, int]] = deque()
    try:
        while True:
            while not queue or connection.poll():
                queue.append(connection.recv())
                reader.prefetch(queue[-1][0])
            request, slot = queue.popleft()
            connection.send(_try_read(reader, request, slots.arrays(slot, request.shape)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the rank has closed the connection or died
    finally:
        reader.close()


def _try_read(
    reader: BatchReader, request: BatchRequest, arrays: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> Exception | None:
    """Read a batch; return the error that the rank is to raise, if any."""
    try:
        reader.read(request, *arrays)
    except InputError as error:
        return error
    except Exception:
        return RuntimeError(f"a loader worker failed:\n{traceback.format_exc()}")
    return None
