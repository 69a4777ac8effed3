"""A cluster loses machines during each job, and its head: no shard, no step and no score is lost or repeated.

The machines are namespaces of this one (see `tests.two_machines`), so only root on Linux can run this test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from jobs.training.checkpoints import newest_step
from jobs.training.folder import CHECKPOINTS, METRICS
from jobs.training.record import load_result
from pipeline import tables
from pipeline.evaluation import layout
from pipeline.storage import Folder
from tests import plain_loop
from tests.jobs.training.trainings import write_corpus
from tests.s3 import gated_s3
from tests.two_machines.machines import SHARED, Machine, missing_rights, network
from tests.two_machines.ray_cluster import Job, RayCluster, wait_for

pytestmark = [pytest.mark.minutes, pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(1800)]

BUCKET = "s3://bonafide"
DATA = f"{SHARED}/data"
NUM_UTTERANCES = 60
INGEST = ["--corpora", "asvspoof2019_la", "--shard-mib", "0.1"]
SCORE = ["--corpora", "asvspoof2019_la", "--part-seconds", "3"]
NUM_STEPS, NUM_SHORT_STEPS = 150, 20
TRAIN = [
    *("--variant", "tiny", "--num-workers", "1,2", "--loader-workers", "0"),
    *("--batch.max-seconds", "3", "--batch.num-buckets", "2", "--batch.window-shards", "4"),
    *("--batch.crop-min-s", "0.3", "--batch.crop-max-s", "0.5", "--training.precision", "fp32"),
    *("--training.optimiser.num-warmup-steps", "10", "--training.validate-every", "1000"),
    *("--training.checkpoint-every", "5", "--training.log-every", "1"),
]
"""Workers read about six utterances for a step."""

INGEST_S, TRAIN_S, SCORE_S = 1.0, 0.2, 1.0
"""The S3 server takes so long for each shard that is written or read, so that a job is at work when a machine is lost;
a training of NUM_STEPS takes minutes on any computer."""

RESUMED_WITHIN_S = 60
"""From the moment when a machine is declared dead to the next step. An idle computer needs 17 s and a busy one 30 s; a
training that waits for the lost machine, as Ray Train does by default, needs more."""


class SlowShards:
    """Slows an S3 server down: it answers the requests for shards one by one, each after `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def __call__(self, kind: str, path: str) -> None:
        if kind in ("GET", "PUT") and "/shards/" in path:
            with self._lock:
                time.sleep(self.seconds)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with a corpus, which every machine finds at SHARED."""
    reason = missing_rights()
    if reason:
        pytest.skip(f"this process may not start machines: {reason}")
    folder = tmp_path / "shared"
    write_corpus(folder / "data" / "ASVspoof2019-LA" / "LA")
    return folder


@pytest.fixture
def pace() -> SlowShards:
    """How fast the S3 server writes and reads shards."""
    return SlowShards()


@pytest.fixture
def cluster(
    shared: Path, pace: SlowShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RayCluster]:
    """A cluster without machines yet, whose jobs know the S3 server with BUCKET."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with network(shared) as wires, gated_s3(monkeypatch, wires.address) as gate:
        gate.delay = pace
        s3fs.S3FileSystem().mkdir(BUCKET)
        with contextlib.closing(RayCluster(wires, shared, tmp_path)) as cluster:
            yield cluster
        s3fs.S3FileSystem().rm(BUCKET, recursive=True)


def test_lost_machines_cost_no_shard_no_step_and_no_score(
    cluster: RayCluster, shared: Path, pace: SlowShards, tmp_path: Path
):
    cluster.start_head("head", 1)
    workers = [cluster.add_worker("alpha", 2), cluster.add_worker("beta", 3)]
    pace.seconds = INGEST_S
    ingests = [cluster.submit("jobs.ingest", *ingest_flags(DATA, place)) for place in (SHARED, BUCKET)]
    lose_while(ingests[1], lambda: num_files(f"{BUCKET}/store", "shards") > 0, cluster, workers[1])
    workers[1] = cluster.add_worker("beta", 3)
    for ingest in ingests:
        ingest.wait()

    pace.seconds = TRAIN_S
    training = cluster.submit("jobs.train", *train_flags(BUCKET, NUM_STEPS))
    deaths = lose_and_regain_machines(cluster, workers, training)
    lose_head(cluster, workers, training)
    assert load_result(Folder(f"{BUCKET}/run")) is None, "the training was complete before its head was lost"

    pace.seconds = 0.0
    cluster.start_head("next-head", 4)
    resumed = cluster.submit("jobs.train", *train_flags(BUCKET, NUM_STEPS))
    gamma = cluster.add_worker("gamma", 5)
    train_and_score_in_shared_folder(cluster, shared)  # meanwhile the lease of the lost driver expires
    roots = {"asvspoof2019_la": shared / "data" / "ASVspoof2019-LA"}
    plain_loop.build_shards(Folder(str(shared / "store")), roots, Folder(str(tmp_path / "store")))
    assert_same_shards(tmp_path / "store", shared / "store", f"{BUCKET}/store")
    resumed.wait()
    assert "resuming from step" in resumed.output()
    assert_complete(Folder(f"{BUCKET}/run"), NUM_STEPS)
    assert_resumed_in_time(Folder(f"{BUCKET}/run"), deaths)

    cluster.add_worker("delta", 6)
    pace.seconds = SCORE_S
    scoring = cluster.submit("jobs.score", *score_flags(BUCKET), "--num-workers", "2")
    lose_while(scoring, lambda: num_files(f"{BUCKET}/scores", layout.PARTS) > 0, cluster, gamma)
    pace.seconds = 0.0
    scoring.wait()
    assert_each_scored_once(Folder(f"{BUCKET}/scores"))


def num_files(place: str, name: str) -> int:
    """The number of files in a folder, which need not exist."""
    try:
        return sum(1 for _ in Folder(place).find(name))
    except FileNotFoundError:
        return 0


def lose_while(job: Job, has_begun: Callable[[], bool], cluster: RayCluster, machine: Machine) -> None:
    """Lose a machine while a job is at work."""
    wait_until(has_begun, job)
    cluster.lose(machine)


def train_and_score_in_shared_folder(cluster: RayCluster, shared: Path) -> None:
    """Run a short training and score with its weights."""
    cluster.submit("jobs.train", *train_flags(SHARED, NUM_SHORT_STEPS)).wait()
    assert_complete(Folder(str(shared / "run")), NUM_SHORT_STEPS)
    cluster.submit("jobs.score", *score_flags(SHARED)).wait()
    assert_each_scored_once(Folder(str(shared / "scores")))


def lose_and_regain_machines(cluster: RayCluster, workers: list[Machine], training: Job) -> list[float]:
    """Lose the machine of rank 0, continue alone, grow when it is back, and lose the machine without rank 0.

    Returns:
        When Ray declared the machines dead.
    """
    wait_for_workers(training, [2])
    wait_for_checkpoint(training)
    first = next(worker for worker in workers if worker.address == address_of_rank_0(training))
    deaths = [cluster.lose(first)]
    wait_for_workers(training, [2, 1])
    workers[workers.index(first)] = cluster.add_worker(first.name, int(first.address.rpartition(".")[2]))
    wait_for_workers(training, [2, 1, 2])
    wait_for_checkpoint(training)
    other = next(worker for worker in workers if worker.address != address_of_rank_0(training))
    deaths.append(cluster.lose(other))
    workers.remove(other)
    wait_for_workers(training, [2, 1, 2, 1])
    wait_for_checkpoint(training)
    return deaths


def lose_head(cluster: RayCluster, workers: list[Machine], training: Job) -> None:
    """Lose the machine with the driver. Workers without a head are of no use, and are lost as well."""
    cluster.network.cut(cluster.head)
    for machine in (cluster.head, *workers):
        machine.kill()
    training.forget()


def sizes_of(training: Job) -> list[int]:
    """The numbers of workers with which the training has run, one after the other."""
    sizes = re.findall(r"batches for each of (\d+) worker", training.output())
    return [int(size) for size, _ in itertools.groupby(sizes)]


def wait_for_workers(training: Job, sizes: list[int]) -> None:
    """Wait until the training runs with another number of workers: the last one of `sizes`."""
    wait_until(lambda: len(sizes_of(training)) >= len(sizes), training)
    assert sizes_of(training) == sizes, training.output()


def wait_for_checkpoint(training: Job) -> None:
    """Wait until one more checkpoint is complete."""
    folder = Folder(f"{BUCKET}/run/{CHECKPOINTS}")
    step = newest_step(folder)
    wait_until(lambda: newest_step(folder) > step, training)


def wait_until(condition: Callable[[], bool], job: Job) -> None:
    """Wait for a condition that holds before the job ends."""
    wait_for(lambda: True if condition() or job.has_ended() else None, job.output)
    assert not job.has_ended(), job.output()


def address_of_rank_0(training: Job) -> str:
    """The machine of rank 0, which alone prints where it starts."""
    return re.findall(r"ip=([\d.]+)\) (?:starting|resuming) from step", training.output())[-1]


def ingest_flags(data: str, place: str) -> list[str]:
    return ["--root", data, "--store", f"{place}/store", *INGEST]


def train_flags(place: str, num_steps: int) -> list[str]:
    flags = ["--store", f"{place}/store", "--out", f"{place}/run", *TRAIN]
    return [*flags, "--training.optimiser.num-steps", str(num_steps)]


def score_flags(place: str) -> list[str]:
    weights = f"{place}/run/detector.safetensors"
    return ["--store", f"{place}/store", "--out", f"{place}/scores", "--checkpoint", weights, *SCORE]


def assert_same_shards(*stores: str | Path) -> None:
    """Check that all stores have the same shards, byte for byte."""
    folders = [Folder(str(store)) for store in stores]
    contents = [{info.name: folder.read(info.name) for info in folder.find("shards")} for folder in folders]
    assert len(contents[0]) > 2, "too few shards to share the work"
    assert all(content == contents[0] for content in contents)


def steps_of(out: Folder) -> list[dict[str, float]]:
    """Every step that was logged, in order."""
    lines = map(json.loads, out.read(METRICS).decode().splitlines())
    return [point for point in lines if "train/loss" in point]


def assert_complete(out: Folder, num_steps: int) -> None:
    """Check that the training has ended, and that each step was trained."""
    result = load_result(out)
    assert result is not None
    assert result.num_steps == num_steps
    assert {int(point["step"]) for point in steps_of(out)} == set(range(1, num_steps + 1))


def assert_resumed_in_time(out: Folder, deaths: list[float]) -> None:
    times = [point["time"] for point in steps_of(out)]
    waits_s = [min(at for at in times if at > death) - death for death in deaths]
    print(f"resumed {[round(wait_s) for wait_s in waits_s]} s after the loss of a machine was noticed")
    assert max(waits_s) < RESUMED_WITHIN_S, waits_s


def assert_each_scored_once(scores: Folder) -> None:
    ids = [
        uid
        for info in scores.find(layout.PARTS)
        for uid in tables.read_table(scores, info.name, ["uid"])["uid"].to_pylist()
    ]
    assert len(ids) == len(set(ids)) == NUM_UTTERANCES
    description = json.loads(scores.read(layout.DESCRIPTION))
    assert (description["num_utterances"], description["num_rejected"]) == (NUM_UTTERANCES, 0)
