"""A child process runs calls, tells of its death, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from pipeline.child_process import ChildProcess

TIMEOUT_S = 60.0


@pytest.fixture(params=["spawn", "forkserver"])
def child(request: pytest.FixtureRequest) -> Iterator[ChildProcess]:
    child = ChildProcess(request.param)
    yield child
    child.kill()


def test_calls_run_one_after_another_in_one_process(child: ChildProcess) -> None:
    pids = {child.submit(os.getpid).result() for _ in range(3)}
    assert len(pids) == 1 and pids != {os.getpid()}


def test_an_exception_is_raised_and_is_no_death(child: ChildProcess) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        child.submit(int, "x").result()
    assert child.submit(int, "7").result() == 7


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGKILL, "ended by SIGKILL"), (signal.SIGSEGV, "ended by SIGSEGV")]
)
def test_a_death_has_a_cause_and_ends_later_calls_too(
    number: signal.Signals, cause: str, child: ChildProcess
) -> None:
    for _ in range(2):
        with pytest.raises(BrokenProcessPool):
            child.submit(signal.raise_signal, number).result()
    assert child.cause_of_death() == cause


def test_an_exit_has_its_status_as_cause(child: ChildProcess) -> None:
    with pytest.raises(BrokenProcessPool):
        child.submit(os._exit, 3).result()
    assert child.cause_of_death() == "ended with status 3"


def test_ctrl_c_and_a_closed_terminal_do_not_end_it(child: ChildProcess) -> None:
    pid = child.submit(os.getpid).result()
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGHUP)
    assert child.submit(os.getpid).result() == pid


def test_killing_it_ends_a_call_that_hangs(child: ChildProcess) -> None:
    pid = child.submit(os.getpid).result()
    call = child.submit(time.sleep, 1000)
    child.kill()
    with pytest.raises((BrokenProcessPool, CancelledError)):  # depending on whether it has begun
        call.result()
    assert not Path(f"/proc/{pid}").exists()


def test_several_threads_may_kill_it_at_once() -> None:
    for _ in range(20):
        child = ChildProcess("forkserver")
        child.submit(os.getpid).result()
        together = threading.Barrier(4)

        def kill(child: ChildProcess = child, together: threading.Barrier = together) -> None:
            together.wait()
            child.kill()

        with ThreadPoolExecutor(4) as threads:
            for killed in [threads.submit(kill) for _ in range(4)]:
                killed.result()


def test_it_ends_with_a_parent_that_is_killed() -> None:
    program = (
        "import os, sys, time\n"
        "from pipeline.child_process import ChildProcess\n"
        "if __name__ == '__main__':\n"
        "    children = [ChildProcess('spawn'), ChildProcess('forkserver')]\n"
        "    print(*[child.submit(os.getpid).result() for child in children], flush=True)\n"
        "    children[0].submit(time.sleep, 1000)\n"
        "    time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        pids = parent.stdout.readline().split()
        assert len(pids) == 2
        parent.kill()
    until = time.monotonic() + TIMEOUT_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until, "a child lives on"
        time.sleep(0.05)


def test_preloaded_modules_are_there_when_a_child_starts() -> None:
    program = (
        "import sys\n"
        "from pipeline.child_process import ChildProcess, preload\n"
        "if __name__ == '__main__':\n"
        "    preload(['wave'])\n"
        "    child = ChildProcess('forkserver')\n"
        "    print(child.submit(eval, \"'wave' in __import__('sys').modules\").result())\n"
        "    child.kill()\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert printed.stdout == "True\n", printed.stderr
