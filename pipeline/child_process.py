"""A child process that runs one call after another, and ends when its parent ends or dies."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Literal, ParamSpec, TypeVar

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


class ChildProcess:
    """A child process; if it dies, its calls raise `BrokenProcessPool`, and it takes no further ones."""

    def __init__(self, start_method: Literal["spawn", "forkserver"] = "spawn") -> None:
        """Prepare the process, which starts with its first call.

        Args:
            start_method: spawn, or forkserver for one that starts at once with the modules of `preload`.
        """
        self._pool = concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context(start_method), initializer=_prepare
        )
        self._processes: dict[int, BaseProcess] = {}  # one at most; the pool forgets it when it dies
        self._is_over = False  # then its number may be that of another process
        self._shutdown = threading.Lock()

    def submit(
        self, call: Callable[Rest, Result], /, *args: Rest.args, **kwargs: Rest.kwargs
    ) -> Future[Result]:
        """Run a function of a module in the process, after its earlier calls."""
        try:
            future = self._pool.submit(call, *args, **kwargs)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        self._processes |= self._pool._processes or {}
        return future

    def cause_of_death(self) -> str:
        """How the process ended that has died."""
        self._wait()
        for process in self._processes.values():
            if process.exitcode is not None and process.exitcode < 0:
                return f"ended by {signal.Signals(-process.exitcode).name}"
            return f"ended with status {process.exitcode}"
        return "did not start"

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        for pid in () if self._is_over else self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait()

    def _wait(self) -> None:
        """Wait until the process has ended.

        Only the pool's own thread may wait for the process itself, and only one thread may shut the pool down: two
        would close the same files, and the second one those of somebody else.
        """
        with self._shutdown:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._is_over = True


def preload(modules: Sequence[str]) -> None:
    """Begin to import modules beside this process, for children that start with `forkserver`.

    Only the first call in a process has an effect; children import later modules themselves.
    """
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def _prepare() -> None:
    # Ctrl-C and the end of a terminal reach all its processes; the parent decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    exit_with_parent()


def exit_with_parent() -> None:
    """End this child process when its parent dies; the pool alone would leave it waiting for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
