"""The train job under signals, kills and damage: nothing is lost or repeated, and some errors end it."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mlflow.tracking import MlflowClient

from jobs import train
from jobs.training import driver, waiting
from jobs.training.checkpoints import load_newest_state, saved_checkpoints
from jobs.training.data import WorkerData
from jobs.training.folder import CHECKPOINTS, RAY_CHECKPOINT_LIST
from jobs.training.record import load_record, load_result
from jobs.training.resolve import resolve
from pipeline.config import to_toml
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.snapshot import load_snapshot
from pipeline.detector.config import OptimiserConfig
from pipeline.detector.state import TrainingState
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.faults import reports_full_disk, small_disk
from tests.jobs.training.second_machine import announce_preemption, reserved_core, second_machine
from tests.jobs.training.trainings import (
    NUM_STEPS,
    TRAINING,
    actors_of,
    checkpoint_folder,
    config,
    losses,
    metrics,
    result_of,
    tracking_uri,
    wait_for_step,
    workers_of,
)

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def newest_state(place: Path, out: str) -> TrainingState:
    state = load_newest_state(checkpoint_folder(place, out))
    assert state is not None
    return state


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Run work in a thread during the block."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def wait_for_worker(before: int) -> None:
    """Wait until another worker than an earlier one trains alone."""
    until = time.monotonic() + 240
    while not (alive := workers_of(os.getpid())) or before in alive:
        assert time.monotonic() < until, "no other worker in time"
        time.sleep(0.1)


def kill_worker(place: Path, out: str, step: int, number: int = 0) -> None:
    wait_for_step(place, out, step)
    os.kill(workers_of(os.getpid())[number], signal.SIGKILL)


def stop_driver(place: Path, out: str, step: int, num_before: int) -> None:
    wait_for_step(place, out, step, num_before)
    # After the training, the signal would end the tests.
    assert load_result(Folder(str(place / out))) is None, "the training was complete before the signal"
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same_training(place: Path, one: str, other: str) -> None:
    assert losses(place, one) == losses(place, other)
    assert sorted(losses(place, one)) == list(range(1, NUM_STEPS + 1))
    weights = [newest_state(place, out)["detector"] for out in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [replace(result_of(place, out), id="", run_id=None) for out in (one, other)]
    assert results[0] == results[1]


def trained_steps(place: Path, out: str) -> list[int]:
    """The steps in the order in which they were trained; repeated ones occur again."""
    return [int(point["step"]) for point in metrics(place, out) if "train/loss" in point]


class Stop(NamedTuple):
    """Where a training was stopped."""

    step: int
    num_trained: int
    """Steps until then, with repetitions."""


@pytest.fixture(scope="module")
def stopped(place: Path) -> Stop:
    """Where SIGTERM stopped the training in `disturbed`, after one of its workers was killed."""

    def disturb() -> None:
        kill_worker(place, "disturbed", 13)
        stop_driver(place, "disturbed", 20, len(metrics(place, "disturbed")) + 2)

    printed = io.StringIO()
    with meanwhile(disturb), redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        train.main(config(place, "disturbed"))
    assert ended.value.code == 143
    assert re.search(
        r"^rank [01] died in step \d+; resuming from step \d0$", printed.getvalue(), re.MULTILINE
    )
    steps = trained_steps(place, "disturbed")
    assert saved_checkpoints(checkpoint_folder(place, "disturbed"))[-1].step == steps[-1] < NUM_STEPS
    shutil.copytree(place / "disturbed", place / "fewer")
    return Stop(steps[-1], len(steps))


def kill_driver(place: Path, out: str) -> None:
    """Resume in a separate process, and kill it after some steps; its workers survive for a moment."""
    file = place / f"{out}.toml"
    file.write_text(to_toml(config(place, out)))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "jobs.train", "--config", str(file)]
    num_before = len(metrics(place, out))
    with (place / "driver.log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_for_step(place, out, 1, num_before)
        finally:
            driver.kill()
            driver.wait()
    (place / out / CHECKPOINTS / RAY_CHECKPOINT_LIST).write_text('{"cut')


def test_kills_and_a_stop_change_no_bit(place: Path, whole: str, stopped: Stop) -> None:
    kill_driver(place, "disturbed")
    record = load_record(Folder(str(place / "disturbed")))
    assert record is not None and load_result(Folder(str(place / "disturbed"))) is None
    leftover = Path(tempfile.gettempdir()) / f"bonafide-checkpoint-{record.id}-killed"
    leftover.mkdir()
    train.main(config(place, "disturbed"))
    assert not leftover.exists()
    steps = trained_steps(place, "disturbed")
    returns = [after for before, after in itertools.pairwise(steps) if after <= before]
    assert returns
    for step in returns:
        after_checkpoint = step % TRAINING.checkpoint_every == 1 or step == stopped.step + 1
        assert after_checkpoint, "a killed training resumes after a checkpoint"
    assert steps[stopped.num_trained] == stopped.step + 1, "the stop cost steps"
    assert_same_training(place, whole, "disturbed")
    client = MlflowClient(tracking_uri(place))
    tag = f"tags.`bonafide.training` = '{result_of(place, 'disturbed').id}'"
    experiment = client.get_experiment_by_name("bonafide")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], tag)
    found = {int(point["step"]): point for point in metrics(place, "disturbed") if "train/loss" in point}
    for name in ("train/loss", "validation/eer"):
        history = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert history == [(step, point[name]) for step, point in sorted(found.items()) if name in point]


def test_fewer_workers_continue_the_same_epoch_also_after_the_death_of_the_controller(
    place: Path, stopped: Stop, capsys: pytest.CaptureFixture[str]
) -> None:
    """One or two workers on two cores, one of which another job uses: there is room for one."""
    before = newest_state(place, "fewer")["progress"]
    assert (before["step"], before["world"]) == (stopped.step, 2)

    def kill_controller() -> None:
        wait_for_step(place, "fewer", stopped.step + 1)
        (controller,) = actors_of(os.getpid(), "TrainController")
        os.kill(controller, signal.SIGKILL)

    with reserved_core(), meanwhile(kill_controller):
        train.main(replace(config(place, "fewer", (1, 2)), tracking_uri=""))
    assert capsys.readouterr().out.count("Ray Train's controller died; resuming from step") == 1
    after = newest_state(place, "fewer")["progress"]
    assert (after["step"], after["world"]) == (NUM_STEPS, 1)
    assert sorted(losses(place, "fewer")) == list(range(1, NUM_STEPS + 1))


def test_a_resumed_training_takes_the_rest_of_the_epoch(place: Path, whole: str) -> None:
    asked = config(place, whole)
    record = load_record(Folder(asked.out))
    assert record is not None
    snapshot = load_snapshot(Folder(asked.store), record.snapshot)
    training = resolve(asked, record, Recipe(), snapshot)

    def taken(rank: int, world: int, first: int, num_batches: int | None = None) -> list[str]:
        data = WorkerData(training, rank, world)
        return [uid for batch in itertools.islice(data.batches(0, first), num_batches) for uid in batch.uid]

    by_two = taken(0, 2, 0, 2) + taken(1, 2, 0, 2)
    assert by_two
    assert sorted(by_two + taken(0, 1, 4)) == sorted(set(taken(0, 1, 0)))


def test_a_step_that_fails_too_often_ends_the_training_with_its_utterances(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MAX_FAILURES_PER_POSITION", 1)  # each attempt costs half a minute here
    long_steps = replace(TRAINING, num_accumulated=200)
    alone = replace(config(place, "fatal", (1, 1)), training=long_steps, tracking_uri="")

    def kill() -> None:
        wait_for_step(place, "fatal", 1)
        time.sleep(0.5)  # a fifth of a step: its first utterances are read
        os.kill(workers_of(os.getpid())[0], signal.SIGKILL)

    name = r"asvspoof2019_la/ASV19LA-\w+ \(0\.\d s\)"
    message = (
        f"step 2 failed 1 times, .* because rank 0 died; its utterances: {name}(, {name})*( and \\d+ more)?$"
    )
    with meanwhile(kill), pytest.raises(InputError, match=message):
        train.main(alone)
    assert "resuming" not in capsys.readouterr().out


def test_losses_that_are_not_finite_end_the_training_at_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = OptimiserConfig(learning_rate=1.0, weight_decay=1e9, num_warmup_steps=0, num_steps=NUM_STEPS)
    diverging = replace(TRAINING, optimiser=wild, max_skipped_steps=1)
    with pytest.raises(
        InputError, match="2 steps had a loss or gradient that is not finite; their utterances"
    ):
        train.main(replace(config(place, "diverging", (1, 1)), training=diverging, tracking_uri=""))
    assert "resuming" not in capsys.readouterr().out


def test_a_preemption_costs_no_step_and_a_driver_that_lost_its_lease_stops_writing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker needs two cores. It has them on a second machine until that is preempted, and later on the first."""
    says_why = threading.Event()

    def cluster_use() -> str:
        says_why.set()
        return "in use on the cluster: 3 of 4 CPUs"

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")  # after which Ray Train tries again
    monkeypatch.setattr(waiting, "CHECK_S", 0.5)
    monkeypatch.setattr(waiting, "FIRST_S", 3.0)
    monkeypatch.setattr(waiting, "cluster_use", cluster_use)
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    out = place / "lost"
    last_steps: list[int] = []

    def take_over() -> None:
        claim = json.loads((out / "lease" / "00000001.json").read_text())
        foreign = json.dumps(claim | {"host": "elsewhere", "pid": 17})
        Folder(str(out)).commit("lease/00000002.json", foreign.encode())
        last_steps.append(trained_steps(place, "lost")[-1])

    with second_machine(num_cpus=2) as machine, reserved_core() as free_core:

        def disturb() -> None:
            wait_for_step(place, "lost", 13)
            (worker,) = workers_of(os.getpid())
            says_why.clear()  # a slow start may have been explained as well
            announce_preemption(machine, worker)
            assert says_why.wait(240)
            free_core()
            wait_for_worker(worker)
            wait_for_step(place, "lost", 1, len(metrics(place, "lost")) + 3)
            take_over()

        with (
            meanwhile(disturb),
            pytest.raises(InputError, match="lost was taken over by process 17 on elsewhere"),
        ):
            train.main(replace(config(place, "lost", (1, 1)), cpus_per_worker=2, tracking_uri=""))
    printed, errors = capsys.readouterr()
    assert len(re.findall(r"a machine is about to be preempted; resuming from step \d+", printed)) == 1
    assert printed.count("; resuming from step") == 1, printed
    assert "Traceback" not in printed + errors
    assert re.search(r"^waiting for room for 1 worker with 2 CPUs · .* 3 of 4 CPUs$", printed, re.MULTILINE)
    steps = trained_steps(place, "lost")
    assert steps == list(range(1, len(steps) + 1)), "the preemption cost steps"
    assert load_result(Folder(str(out))) is None
    (last_step,) = last_steps
    assert last_step < NUM_STEPS
    # A worker that checked the lease just before it was lost may still write one step.
    assert steps[-1] <= last_step + 1
    saved = [checkpoint.step for checkpoint in saved_checkpoints(checkpoint_folder(place, "lost"))]
    assert saved and saved[-1] <= last_step + 1


def test_a_training_continues_once_its_folder_has_room(place: Path, tmp_path: Path):
    steps = replace(TRAINING.optimiser, num_warmup_steps=1, num_steps=4)
    schedule = replace(TRAINING, optimiser=steps, checkpoint_every=2, validate_every=4)
    with ExitStack() as stack:
        mount_again = stack.enter_context(small_disk(tmp_path / "disk", 600))
        settings = replace(
            config(place, "", (1, 1)), out=str(tmp_path / "disk/run"), training=schedule, tracking_uri=""
        )
        with reports_full_disk(tmp_path / "disk/run/checkpoints"):
            train.main(settings)
        mount_again("size=64m")
        train.main(settings)
        assert Folder(settings.out).exists("result.json")
