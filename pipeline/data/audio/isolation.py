"""Decode files that may crash or hang a decoder, without losing the work on the other files.

Decoders are C libraries: a damaged file can crash or block the whole process without any exception. So a unit of work
(a shard to build, a part of a catalog to probe) is first done in the worker itself, under a watchdog that ends the
process if it hangs. If a worker has died during the work, the next one decodes its files in a child process: a bad file
then ends only the child, and is rejected.

A decode function takes a source, the file's name for messages, and any further arguments.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeVar

from pipeline.child_process import ChildProcess
from pipeline.data.audio.errors import AudioError
from pipeline.errors import InputError
from pipeline.storage import Folder

HANG_S = 600.0
"""Time limit for one file, in seconds; no decoder needs longer for a file of up to four hours."""

MAX_ATTEMPTS = 4
"""Give up on a unit of work after this many workers have died during it."""

RESETS_PER_LIMIT = 100
"""The watchdog is reset at most this often per time limit; resetting it for each file would slow small files down."""

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
    """Decode the files of one unit of work: in this process, or in a child process after a worker has died during it.

    While the work is running, the number of attempts is kept in the store, where the next worker finds it.

    Args:
        decode: a function at module level.
        store: a folder that all workers can read and write.
        marker: file in the store that counts the attempts; the same for every worker that tries this work.
        hang_s: time limit for one file, in seconds.

    Yields:
        `decode` with the protection around it.

    Raises:
        InputError: `MAX_ATTEMPTS` workers died during the work.
    """
    try:
        num_deaths = int(store.read(marker))
    except FileNotFoundError:
        num_deaths = 0
    if num_deaths >= MAX_ATTEMPTS:
        store.delete(marker)  # so that the work starts afresh once the cause is fixed
        raise InputError(
            f"{marker}: {num_deaths} processes died while they did this work; use fewer workers or a machine with "
            "more memory, and run the same command again"
        )
    store.commit(marker, str(num_deaths + 1).encode())
    try:
        with in_subprocess(decode, hang_s) if num_deaths else with_watchdog(decode, hang_s) as safe_decode:
            yield safe_decode
    finally:  # also after an exception, which is not the death of a worker
        store.delete(marker)


@contextlib.contextmanager
def with_watchdog(
    decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float = HANG_S
) -> Iterator[Callable[Concatenate[Source, str, Rest], Result]]:
    """Decode in this process, and end the process if one file takes longer than `hang_s` seconds (within 1 %)."""
    try:
        yield _Watchdog(decode, hang_s)
    finally:
        faulthandler.cancel_dump_traceback_later()


class _Watchdog(Generic[Source, Rest, Result]):
    """Uses `faulthandler`, which fires even while a C library holds the interpreter lock; a Python thread cannot."""

    def __init__(self, decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float) -> None:
        self._decode, self._hang_s = decode, hang_s
        self._reset_at = float("-inf")

    def __call__(self, source: Source, name: str, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        now = time.monotonic()
        if now - self._reset_at > self._hang_s / RESETS_PER_LIMIT:
            self._reset_at = now
            faulthandler.dump_traceback_later(self._hang_s, exit=True, file=2)
        return self._decode(source, name, *args, **kwargs)


@contextlib.contextmanager
def in_subprocess(
    decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float = HANG_S
) -> Iterator[Callable[Concatenate[Source, str, Rest], Result]]:
    """Decode in a child process; a file that crashes or hangs the child raises an `AudioError`."""
    child = _Child(decode, hang_s)
    try:
        yield child
    finally:
        child.close()


class _Child(Generic[Source, Rest, Result]):
    """A process that decodes file after file, and is replaced after a file that it does not survive."""

    def __init__(self, decode: Callable[Concatenate[Source, str, Rest], Result], hang_s: float) -> None:
        self._decode, self._hang_s = decode, hang_s
        self._process: ChildProcess | None = None

    def __call__(self, source: Source, name: str, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        if self._process is None:
            self._process = ChildProcess()
            self._process.submit(
                _import, self._decode
            ).result()  # startup does not count towards the time limit
        call: Callable[[], Result] = partial(self._decode, source, name, *args, **kwargs)
        future = self._process.submit(call)
        try:
            return future.result(timeout=self._hang_s)
        except BrokenProcessPool as error:
            self.close()
            raise AudioError("crashes_decoder", name, "the decoding process died") from error
        except TimeoutError as error:
            self.close()
            raise AudioError("hangs_decoder", name, f"not decoded after {self._hang_s:.0f} s") from error

    def close(self) -> None:
        """Kill the child process."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def _import(_decode: Callable[..., object]) -> None:
    """Do nothing: unpickling the argument has already imported the decoder's module."""
