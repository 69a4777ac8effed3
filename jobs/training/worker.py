"""What one rank of a training does inside Ray Train: read, train, and report for all of them."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.training import checkpoints
from jobs.training.monitor import Watched
from jobs.training.reporter import METRICS, Reporter
from pipeline import tracking
from pipeline.data.store.snapshot import Snapshot, choose_corpora, load_index, load_snapshot
from pipeline.lease import Fence
from pipeline.storage import Folder

if TYPE_CHECKING:
    from jobs.train import Begun, TrainConfig
    from pipeline.data.corpora.recipe import Recipe
    from pipeline.data.loading.batches import Batch
    from pipeline.data.store.index import Index
    from pipeline.detector.network import Detector
    from pipeline.detector.training import State

INITIAL = "initial.safetensors"


@dataclass(frozen=True)
class RankArguments:
    """What every rank of every attempt gets."""

    config: TrainConfig
    begun: Begun
    recipe: Recipe
    run_id: str | None
    """Of the job in MLflow."""
    fence: Fence
    """Whether the driver still owns the training."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended that did not fail."""

    step: int
    is_over: bool
    """Whether nothing is left to train; else it paused at a checkpoint."""


def train_rank(setup: dict[str, Any]) -> Ended:
    """Train as one rank of the process group that Ray Train has set up."""
    import torch.distributed as dist

    # Ray's prints every report of every rank and has the path of a file for a name; s3fs tells every retry.
    for noisy in logging.root.manager.loggerDict:
        if noisy.endswith("ray/train/v2/_internal/execution/context.py") or "botocore" in noisy:
            logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments: RankArguments = setup["arguments"]
    out = Folder(arguments.config.out)
    rank = dist.get_rank()
    state = newest_state(out) if rank == 0 else None  # it is spread to all ranks from there
    steps = [state["progress"]["step"] if state is not None else 0]
    dist.broadcast_object_list(steps, src=0)
    watched = Watched(setup["board"], rank, steps[0])
    with watched.told(), track_rank(arguments.config, arguments.run_id, out, rank) as tracked:
        tracked.send_missing(steps[0])
        return train_watched(arguments, watched, tracked, state)


def train_watched(
    arguments: RankArguments, watched: Watched, tracked: tracking.Run, state: State | None
) -> Ended:
    """Train to the end, or to where the driver or the cluster wants a pause."""
    import ray.train.torch
    import torch
    import torch.distributed as dist

    from pipeline.detector.training import train

    config, begun = arguments.config, arguments.begun
    rank, out = dist.get_rank(), Folder(config.out)
    if config.device == "cpu" or not torch.cuda.is_available():
        torch.set_num_threads(config.cpus_per_worker)
    detector = load_initial(out)
    facts = {"variant": config.variant, "training": begun.id, "snapshot": begun.snapshot_digest}
    reporter = Reporter(out, arguments.fence, detector, facts, tracked, rank, config.keep_checkpoints)
    data = RankData(config, begun, arguments.recipe, rank, dist.get_world_size())
    if rank == 0:
        say(data.summary(), f"from step {state['progress']['step']}" if state else "from the start")
    progress = train(
        detector.to(ray.train.torch.get_device()),
        watched.batches(data.batches),
        config.training,
        reporter,
        validation=lambda: watched.validation(data.validation()),
        corpus_of=data.corpus_of,
        state=state,
        say=say,
        should_stop=watched.should_stop,
        on_validation=lambda _, found: reporter.keep(found),
    )
    reporter.finish()
    return Ended(progress.step, progress.is_over(config.training.optimiser.num_steps))


def say(*words: str) -> None:
    """Print a line at once."""
    print(*words, flush=True)


def load_initial(out: Folder) -> Detector:
    """The untrained detector, equal on all ranks."""
    from pipeline.detector.checkpoint import load_detector

    with local_copy(out, INITIAL) as path:
        return load_detector(path).detector


@contextlib.contextmanager
def local_copy(folder: Folder, name: str) -> Iterator[Path]:
    """A file of a folder as a local path."""
    if folder.is_local:
        yield Path(folder.location(name))
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / Path(name).name
        path.write_bytes(folder.read(name))
        yield path


def newest_state(out: Folder) -> State | None:
    """The state of the newest whole checkpoint."""
    folder = out.folder("checkpoints")
    found = checkpoints.saved_states(folder)
    return checkpoints.load_state(folder, found[-1]) if found else None


class RankData:
    """The batches of one rank."""

    def __init__(self, config: TrainConfig, begun: Begun, recipe: Recipe, rank: int, world: int) -> None:
        from pipeline.data.loading.augment import augmentation
        from pipeline.data.loading.batches import TrainingBatches
        from pipeline.data.store.index import node_folder

        self._config = config
        self._rank, self._world = rank, world
        self._store = Folder(config.store)
        snapshot = training_snapshot(load_snapshot(self._store, begun.snapshot), config, recipe)
        self._validation = load_index(self._store, snapshot, recipe, "validation", node_folder())
        self._training = TrainingBatches(
            self._store,
            load_index(self._store, snapshot, recipe, "train", node_folder()),
            config.batch,
            rank=rank,
            world=world,
            num_workers=config.loader_workers,
            augment=augmentation(config.augment),
        )
        self.corpus_of = corpus_of(self._validation)

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """This rank's share of an epoch, from a batch on."""
        return self._training(epoch, first_batch=first_batch)

    def validation(self) -> Iterator[Batch]:
        """This rank's share of the held-out utterances."""
        from pipeline.data.loading.batches import evaluation_batches

        return evaluation_batches(
            self._store,
            self._validation,
            max_seconds=self._config.batch.max_seconds,
            rank=self._rank,
            world=self._world,
            num_workers=self._config.loader_workers,
        )

    def summary(self) -> str:
        """One line about the first epoch."""
        epoch = self._training.plan(0).report(self._world)
        return (
            f"{epoch.used} utterances, {epoch.audio_s / 3600:.1f} h in {epoch.num_steps} batches for each of "
            f"{self._world} workers, {epoch.padding:.1%} padding; left out: {epoch.leftover} that fill no batch, "
            f"{epoch.too_short} too short, {epoch.too_long} too long; "
            f"{len(self._validation.label)} to validate with;"
        )


def training_snapshot(snapshot: Snapshot, config: TrainConfig, recipe: Recipe) -> Snapshot:
    """The corpora of a snapshot that the training uses: the named ones, or those of the recipe."""
    if recipe.corpora and not config.corpora:
        there = [corpus for corpus in recipe.corpora if corpus in snapshot.corpora]
        return choose_corpora(snapshot, there or recipe.corpora)
    return choose_corpora(snapshot, config.corpora, role=None if config.corpora else "train")


def corpus_of(index: Index) -> dict[str, str]:
    """uid → corpus."""
    return {
        f"{uid:016x}": index.corpora[corpus]
        for uid, corpus in zip(index.uid.tolist(), index.corpus.tolist(), strict=True)
    }


@contextlib.contextmanager
def track_rank(config: TrainConfig, run_id: str | None, out: Folder, rank: int) -> Iterator[tracking.Run]:
    """On rank 0 the run that the job has opened, with its metrics in OUT/metrics.jsonl too; else nothing."""
    uri = config.tracking_uri if rank == 0 and run_id else ""
    with contextlib.ExitStack() as stack:
        file = None
        if rank == 0:
            file = Path(out.location(METRICS)) if out.is_local else _earlier_metrics(out, stack)
        yield stack.enter_context(
            tracking.run(
                uri,
                config.experiment,
                job="train",
                name=f"train {config.variant}",
                run_id=run_id,
                metrics_file=file,
            )
        )


def _earlier_metrics(out: Folder, stack: contextlib.ExitStack) -> Path:
    file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / METRICS
    if out.exists(METRICS):
        file.write_bytes(out.read(METRICS))
    return file
