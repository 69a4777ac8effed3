"""Processes that fill batches ahead of the rank, in memory that both see and that is used again.

Batch k is made by worker k mod W, so they come in order. A worker writes into a slot of memory that it shares with
the rank; the slot is free again once nobody holds the array. New memory for each batch would cost more than half of
the time that decoding takes: the kernel clears each page when it is first touched, and the rank maps it anew.
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

import numpy as np
from numpy.typing import NDArray

from pipeline.data.loading.reading import BatchReader, Reads
from pipeline.errors import InputError

# B: utterances, T: samples at 16 kHz.

PREFETCHED = 4
"""Batches that a worker is asked for ahead."""

HELD = 4
"""Batches of a worker that may be held at once without being copied."""

PATIENCE_S = 10.0
"""Longest wait for a worker to end by itself."""

PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pipeline.data.loading.workers import work
work(int(sys.argv[2]), int(sys.argv[3]))
"""
"""What a worker is started with: it finds modules where the rank does."""


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """A batch that has been read."""

    reads: Reads
    waveform: NDArray[np.float32]
    """[B, T]; its memory is used again when nothing refers to this array."""
    num_samples: NDArray[np.int64]
    """[B]"""


def fill_batches(
    reader: BatchReader, reads: Iterable[Reads], num_workers: int, largest: tuple[int, int]
) -> Iterator[Filled]:
    """Read batches in order, in worker processes if there are any.

    `largest` bounds them: samples with padding, utterances.

    Raises:
        InputError: a shard is missing or damaged.
        RuntimeError: a worker died.
    """
    if num_workers:
        return _with_workers(reader, iter(reads), num_workers, largest)
    return _alone(reader, reads, largest)


def _alone(reader: BatchReader, reads: Iterable[Reads], largest: tuple[int, int]) -> Iterator[Filled]:
    slots = _Slots(1 + HELD, largest)
    coming: deque[Reads] = deque()
    try:
        for upcoming in reads:
            reader.expect(upcoming)
            coming.append(upcoming)
            if len(coming) > 1:
                yield _fill(reader, coming.popleft(), slots)
        while coming:
            yield _fill(reader, coming.popleft(), slots)
    finally:
        reader.close()


def _fill(reader: BatchReader, reads: Reads, slots: _Slots) -> Filled:
    slot = slots.take()
    reader.read(reads, *slots.arrays(slot, reads.shape))
    return slots.lend(slot, reads)


def _with_workers(
    reader: BatchReader, reads: Iterator[Reads], num_workers: int, largest: tuple[int, int]
) -> Iterator[Filled]:
    workers = [_Worker(reader, largest) for _ in range(num_workers)]
    try:
        for turn in range(PREFETCHED * num_workers):
            workers[turn % num_workers].ask(next(reads, None))
        turn = 0
        while (filled := workers[turn % num_workers].answer()) is not None:
            workers[turn % num_workers].ask(next(reads, None))
            yield filled
            turn += 1
    finally:
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.wait()


class _Slots:
    """Memory for some batches; what is not used is never touched."""

    def __init__(self, num_slots: int, largest: tuple[int, int], file: int | None = None):
        num_samples, num_utterances = largest
        num_bytes = num_utterances * np.int64().nbytes + num_samples * np.float32().nbytes
        self._stride = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.file = _anonymous_file(num_slots * self._stride) if file is None else file
        self._memory = mmap.mmap(self.file, num_slots * self._stride)
        self._free = list(range(num_slots))

    def take(self) -> int:
        """A slot to fill: the one used last, whose pages are there and may be in the cache."""
        return self._free.pop()

    def arrays(self, slot: int, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The memory of a slot as waveforms [B, T] and their lengths [B]."""
        begin, end = slot * self._stride, (slot + 1) * self._stride
        waveform = np.frombuffer(self._memory, np.float32, shape[0] * shape[1], begin)
        lengths = np.frombuffer(self._memory, np.int64, shape[0], end - shape[0] * np.int64().nbytes)
        return waveform.reshape(shape), lengths

    def lend(self, slot: int, reads: Reads) -> Filled:
        """The batch in a slot; the slot is free again when nothing refers to its waveforms.

        While others hold all slots but this one, a copy goes out instead, so that there is always one to fill.
        """
        waveform_BT, num_samples_B = self.arrays(slot, reads.shape)
        if self._free:
            weakref.finalize(waveform_BT, self._free.append, slot)
        else:
            waveform_BT = waveform_BT.copy()
            self._free.append(slot)
        return Filled(reads, waveform_BT, num_samples_B.copy())


def _anonymous_file(num_bytes: int) -> int:
    """A file without a name, gone with its last user; not in /dev/shm, which is small in many containers."""
    if sys.platform == "linux":
        file = os.memfd_create("batches")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, num_bytes)
    return file


class _Worker:
    """The rank's side of a worker: asked in order, it answers in order."""

    def __init__(self, reader: BatchReader, largest: tuple[int, int]):
        num_slots = PREFETCHED + HELD
        self._slots = _Slots(num_slots, largest)
        self._asked: deque[tuple[Reads, int]] = deque()
        self._connection, theirs = multiprocessing.Pipe()
        # A fork would copy locks that threads of torch, Ray or s3fs hold, and multiprocessing would import the main
        # module of the rank again in every worker, which takes longer than all that a worker needs.
        files = (theirs.fileno(), self._slots.file)
        words = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), *map(str, files)]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=files)  # noqa: S603 - our words
        theirs.close()
        os.close(self._slots.file)
        self._send((reader, num_slots, largest))

    def ask(self, reads: Reads | None) -> None:
        """Ask for a batch; None asks for nothing."""
        if reads is not None:
            slot = self._slots.take()
            self._asked.append((reads, slot))
            self._send((reads, slot))

    def answer(self) -> Filled | None:
        """The batch that was asked for first; None when nothing was."""
        if not self._asked:
            return None
        reads, slot = self._asked.popleft()
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if answer is not None:
            raise answer
        return self._slots.lend(slot, reads)

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _death(self) -> RuntimeError:
        return RuntimeError(f"a worker of the loader died with exit code {self._process.wait()}")

    def dismiss(self) -> None:
        """Let the worker end: it does when it finds that nobody is there."""
        self._connection.close()

    def wait(self) -> None:
        """Wait until the worker has ended."""
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def work(connection_file: int, memory_file: int) -> None:
    """Fill batches until the rank hangs up: all that a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rank, which then hangs up
    connection: Connection = Connection(connection_file)
    reader, num_slots, largest = connection.recv()
    slots = _Slots(num_slots, largest, memory_file)
    coming: deque[tuple[Reads, int]] = deque()
    try:
        while True:
            while not coming or connection.poll():
                coming.append(connection.recv())
                reader.expect(coming[-1][0])
            reads, slot = coming.popleft()
            connection.send(_answer(reader, reads, slots.arrays(slot, reads.shape)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the rank has what it wanted, or is gone
    finally:
        reader.close()


def _answer(
    reader: BatchReader, reads: Reads, arrays: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> Exception | None:
    """Fill a slot; what went wrong is raised in the rank."""
    try:
        reader.read(reads, *arrays)
    except InputError as error:
        return error
    except Exception:
        return RuntimeError(f"a worker of the loader failed:\n{traceback.format_exc()}")
    return None
