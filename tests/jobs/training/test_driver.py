"""Which failures are retried, and which rank is the cause of a failed attempt."""

from __future__ import annotations

import errno
import os

import pytest
from ray.train import ControllerError

from jobs.training.driver import (
    Failure,
    RetryPolicy,
    check_resources,
    find_cause,
    raise_disk_error,
    raise_user_error,
)
from jobs.training.monitor import MonitorState, Position
from pipeline.detector.state import NonFiniteError
from pipeline.errors import InputError, UnavailableError


def failure(step: int | None, *uids: str) -> Failure:
    position = None if step is None else Position(f"step {step}", uids)
    return Failure("rank 1 died", position, RuntimeError("lost"))


def test_a_step_that_fails_for_the_third_time_ends_the_training_with_its_utterances():
    policy = RetryPolicy(max_failures=100)
    for step in (7, 9, 7, 8):
        assert policy.delay_s(failure(step, "a"), has_progressed=True) == 0
    with pytest.raises(InputError, match=r"step 7 failed 3 times, .* rank 1 died; its utterances: b, c"):
        policy.delay_s(failure(7, "b", "c"), has_progressed=True)


def test_failures_in_a_row_end_the_training_unless_checkpoints_come_between():
    policy = RetryPolicy(max_failures=2)
    for step, has_progressed in ((1, False), (2, False), (3, True), (4, False)):
        policy.delay_s(failure(step), has_progressed=has_progressed)
    with pytest.raises(RuntimeError, match="lost"):
        policy.delay_s(failure(None), has_progressed=False)


def test_an_unavailable_storage_is_retried_with_growing_delays_and_then_named():
    policy = RetryPolicy(max_failures=3)
    unavailable = find_cause(
        RuntimeError("lost"),
        {1: UnavailableError("s3://b/x: busy")},
        MonitorState({1: Position("step 1")}, [1]),
    )
    assert [policy.delay_s(unavailable, has_progressed=False) for _ in range(3)] == [15, 30, 60]
    with pytest.raises(UnavailableError, match="s3://b/x: busy"):
        policy.delay_s(unavailable, has_progressed=False)


@pytest.mark.parametrize("error", [InputError("fix it"), NonFiniteError("fix it")])
def test_an_error_that_the_user_has_to_fix_is_not_retried(error: Exception):
    with pytest.raises(InputError, match=r"^fix it$"):
        raise_user_error({0: RuntimeError("Connection closed by peer"), 1: error})


def test_a_disk_that_is_full_is_named_and_not_retried():
    def full(place: str) -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)

    with pytest.raises(InputError, match=r"^/node/file: No space left on device; make room there"):
        raise_disk_error([RuntimeError("Connection closed by peer"), full("/node/file")], "/run")
    with pytest.raises(InputError, match=r"^/run: No space left on device; make room there"):
        raise_disk_error([OSError(errno.ENOSPC, "Error writing bytes to file")], "/run")
    raise_disk_error([RuntimeError("lost"), OSError(errno.EIO, "Input/output error")], "/run")


def test_an_error_that_may_pass_is_retried():
    raise_user_error({0: RuntimeError("Connection closed by peer"), 1: UnavailableError("busy")})


def test_a_rank_that_died_is_the_cause_of_the_other_failures():
    state = MonitorState({0: Position("step 5", ("a",)), 1: Position("step 6", ("b",))}, failed_ranks=[0])
    errors = {0: RuntimeError("Connection closed"), 1: RuntimeError("gone")}
    cause = find_cause(RuntimeError("both"), errors, state)
    assert (cause.summary, cause.position) == ("rank 1 died", Position("step 6", ("b",)))


def test_if_no_rank_died_the_first_that_failed_is_the_cause():
    state = MonitorState({0: Position("step 5"), 1: Position("step 5")}, failed_ranks=[1, 0])
    errors = {0: RuntimeError("Connection closed"), 1: MemoryError("where\nno memory")}
    cause = find_cause(RuntimeError("both"), errors, state)
    assert cause.summary == "rank 1 raised MemoryError: no memory"


@pytest.mark.parametrize("message", ["no route to host", "\n  no route to host\n  in connect.cc\n"])
def test_a_failure_of_ray_train_itself_is_named_by_its_cause(message: str):
    failed = ControllerError(RuntimeError(message))
    cause = find_cause(failed, {}, MonitorState({}, []))
    assert cause.summary == "Ray Train failed: RuntimeError: no route to host"


def test_a_failure_without_a_message_is_named_by_its_type():
    cause = find_cause(ControllerError(TimeoutError()), {}, MonitorState({}, []))
    assert cause.summary == "Ray Train failed: TimeoutError"


def test_a_machine_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_resources((1, 8), 2, {"CPU": 2.0}, use_gpu=False)
    with pytest.raises(InputError, match="2 workers need 4 CPUs and this machine has 2"):
        check_resources((2, 8), 2, {"CPU": 2.0}, use_gpu=False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_resources((2, 8), 2, {"CPU": 2.0}, use_gpu=False)
