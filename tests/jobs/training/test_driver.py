"""What is worth another attempt, and who is to blame for a failed one."""

from __future__ import annotations

import pytest

from jobs.training.driver import Failure, Patience, check_resources, describe, raise_for_user
from jobs.training.monitor import Place, Posted
from pipeline.detector.training import NonFiniteError
from pipeline.errors import InputError, UnavailableError


def failure(step: int | None, *uids: str) -> Failure:
    place = None if step is None else Place(f"step {step}", uids)
    return Failure("rank 1 died", place, RuntimeError("lost"))


def test_a_step_that_fails_for_the_third_time_ends_the_training_with_its_utterances():
    patience = Patience(max_failures=100)
    for step in (7, 9, 7, 8):
        assert patience.spend(failure(step, "a"), is_further=True) == 0
    with pytest.raises(InputError, match=r"step 7 failed 3 times, .* rank 1 died; its utterances: b, c"):
        patience.spend(failure(7, "b", "c"), is_further=True)


def test_failures_in_a_row_end_the_training_unless_checkpoints_come_between():
    patience = Patience(max_failures=2)
    for step, is_further in ((1, False), (2, False), (3, True), (4, False)):
        patience.spend(failure(step), is_further=is_further)
    with pytest.raises(RuntimeError, match="lost"):
        patience.spend(failure(None), is_further=False)


def test_a_storage_that_is_away_is_waited_for_longer_each_time_and_said_at_the_end():
    patience = Patience(max_failures=3)
    away = describe(
        RuntimeError("lost"), {1: UnavailableError("s3://b/x: busy")}, Posted({1: Place("step 1")}, [1])
    )
    assert [patience.spend(away, is_further=False) for _ in range(3)] == [15, 30, 60]
    with pytest.raises(UnavailableError, match="s3://b/x: busy"):
        patience.spend(away, is_further=False)


@pytest.mark.parametrize("error", [InputError("mend it"), NonFiniteError("mend it")])
def test_what_the_user_has_to_mend_is_not_tried_again(error: Exception):
    with pytest.raises(InputError, match=r"^mend it$"):
        raise_for_user({0: RuntimeError("Connection closed by peer"), 1: error})


def test_what_may_pass_is_tried_again():
    raise_for_user({0: RuntimeError("Connection closed by peer"), 1: UnavailableError("busy")})


def test_a_rank_that_died_is_to_blame_for_the_others():
    posted = Posted({0: Place("step 5", ("a",)), 1: Place("step 6", ("b",))}, gave_up=[0])
    found = describe(
        RuntimeError("both"), {0: RuntimeError("Connection closed"), 1: RuntimeError("gone")}, posted
    )
    assert (found.words, found.place) == ("rank 1 died", Place("step 6", ("b",)))


def test_of_ranks_that_gave_up_the_first_is_to_blame():
    posted = Posted({0: Place("step 5"), 1: Place("step 5")}, gave_up=[1, 0])
    errors = {0: RuntimeError("Connection closed"), 1: MemoryError("where\nno memory")}
    found = describe(RuntimeError("both"), errors, posted)
    assert found.words == "rank 1 met MemoryError: no memory"


def test_a_machine_that_is_too_small_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_resources((1, 8), 2, {"CPU": 2.0}, use_gpu=False)
    with pytest.raises(InputError, match="2 workers need 4 CPUs and this machine has 2"):
        check_resources((2, 8), 2, {"CPU": 2.0}, use_gpu=False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_resources((2, 8), 2, {"CPU": 2.0}, use_gpu=False)
