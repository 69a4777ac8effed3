"""Decoding that outlives files which crash or hang a decoder.

Decoders are C libraries: a file can end or stop the whole process, and no exception tells of it. So a piece of work,
a shard to build or a part of a catalog to probe, is first done the fast way, with a watchdog that ends a worker that
hangs; when a worker has died over it, the next one decodes its files in a child, loses only the child, and rejects
the file.

What decodes takes a source, the name of the file for messages, and whatever else it needs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeVar

from pipeline.data.audio.load import AudioError
from pipeline.storage import Folder

HANG_S = 600.0
"""No decoder needs longer for one file of up to four hours."""

MAX_ATTEMPTS = 4
"""Workers that may die over one piece of work."""

RESET_INTERVAL_PARTS = 100
"""Part of the time limit after which the watchdog is set anew: doing so for each file would slow small ones down."""

Source = TypeVar("Source")
Result = TypeVar("Result")
Rest = ParamSpec("Rest")


@contextlib.contextmanager
def crash_safe(
    decode: Callable[Concatenate[Source, str, Rest], Result],
    store: Folder,
    marker: str,
    hang_s: float = HANG_S,
) -> Iterator[Callable[Concatenate[Source, str, Rest], Result]]:
    """Decode the files of one piece of work, in a child process if workers have died over it.

    The count of attempts lies in the store while the work is being done, so the worker that takes over from a dead
    one knows.

    Args:
        decode: a function of a module.
        store: seen by all workers.
        marker: path of the file in the store that counts attempts; the same for every worker that tries this work.
        hang_s: how long one file may take, seconds.

    Raises:
        RuntimeError: as many workers as `MAX_ATTEMPTS` died over the work.
    """
    died = int(store.read(marker)) if store.exists(marker) else 0
    if died >= MAX_ATTEMPTS:
        store.delete(marker)  # whoever has found the cause begins anew
        raise RuntimeError(f"{marker}: {died} workers died over it; look at their memory and their logs")
    store.commit(marker, str(died + 1).encode())
    try:
        with in_subprocess(decode, hang_s) if died else with_watchdog(decode, hang_s) as safe:
            yield safe
    finally:  # an exception is no death
        store.delete(marker)


@contextlib.contextmanager
def with_watchdog(
    decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float = HANG_S
) -> Iterator[Callable[Concatenate[Source, str, Rest], Result]]:
    """Decode in this process, and end it if one file takes longer than `hang_s`, give or take a hundredth."""
    try:
        yield _Watchdog(decode, hang_s)
    finally:
        faulthandler.cancel_dump_traceback_later()


class _Watchdog(Generic[Source, Rest, Result]):
    """Works while a C library holds the interpreter's lock, as no Python thread would."""

    def __init__(self, decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float) -> None:
        self._decode, self._hang_s = decode, hang_s
        self._armed = float("-inf")

    def __call__(self, source: Source, name: str, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        now = time.monotonic()
        if now - self._armed > self._hang_s / RESET_INTERVAL_PARTS:
            self._armed = now
            faulthandler.dump_traceback_later(self._hang_s, exit=True, file=2)
        return self._decode(source, name, *args, **kwargs)


@contextlib.contextmanager
def in_subprocess(
    decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float = HANG_S
) -> Iterator[Callable[Concatenate[Source, str, Rest], Result]]:
    """Decode in a child process; a file that ends or stops the child is an `AudioError` like any other."""
    child = _Child(decode, hang_s)
    try:
        yield child
    finally:
        child.close()


class _Child(Generic[Source, Rest, Result]):
    """One process that decodes file after file, and a new one after each that it does not survive."""

    def __init__(self, decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float) -> None:
        self._decode, self._hang_s = decode, hang_s
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __call__(self, source: Source, name: str, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            self._pool.submit(_import, self._decode).result()  # its start is not the time of a file
        call: Callable[[], Result] = partial(self._decode, source, name, *args, **kwargs)
        future = self._pool.submit(call)
        try:
            return future.result(timeout=self._hang_s)
        except BrokenProcessPool as error:
            self.close()
            raise AudioError("crashes_decoder", name, "the process that decoded it died") from error
        except TimeoutError as error:
            self.close()
            raise AudioError("hangs_decoder", name, f"not decoded after {self._hang_s:.0f} s") from error

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self._pool is None:
            return
        for process in list((self._pool._processes or {}).values()):
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _import(_decode: Callable[..., object]) -> None:
    """Nothing: to get its argument, a child has imported the module of it."""
