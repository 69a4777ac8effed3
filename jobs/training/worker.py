"""One worker of a training inside Ray Train: reads, trains and reports as one rank of the process group."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.training.checkpoints import load_newest_state
from jobs.training.data import WorkerData
from jobs.training.folder import CHECKPOINTS, INITIAL, METRICS
from jobs.training.lifecycle import local_copy
from jobs.training.monitor import MonitorClient
from jobs.training.record import TrainingRecord
from jobs.training.reporter import Reporter, delete_leftovers
from jobs.training.resolve import ResolvedTraining
from pipeline import tracking
from pipeline.lease import Fence
from pipeline.storage import Folder, temporary_folder

if TYPE_CHECKING:
    from pipeline.detector.network import Detector
    from pipeline.detector.state import TrainingState

REPORT_LOGGER = "ray/train/v2/_internal/execution/context.py"
"""The end of the name of a logger of Ray Train for which the level of its other loggers does not count."""


@dataclass(frozen=True)
class WorkerArguments:
    """Sent to every worker of every attempt."""

    training: ResolvedTraining
    record: TrainingRecord
    fence: Fence
    """Tells whether the driver still holds the lease of the folder."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The end of an attempt that did not fail."""

    step: int
    is_complete: bool
    """Whether the training is complete; else it has stopped at a checkpoint."""


def train_worker(setup: dict[str, Any]) -> AttemptResult:
    """Train as one rank of the process group that Ray Train has set up.

    Args:
        setup: `arguments`, the WorkerArguments, and `monitor`, the handle of the monitor.
    """
    import torch.distributed as dist

    _silence_loggers()
    arguments: WorkerArguments = setup["arguments"]
    out, rank = arguments.training.out, dist.get_rank()
    delete_leftovers(arguments.record.id)
    # Rank 0 loads the checkpoint and broadcasts it.
    state = load_newest_state(out.folder(CHECKPOINTS)) if rank == 0 else None
    steps = [state["progress"]["step"] if state is not None else 0]
    dist.broadcast_object_list(steps, src=0)
    client = MonitorClient(setup["monitor"], rank, steps[0])
    with client.report_failure(), _tracked_run(arguments, out, rank) as tracked:
        tracked.send_missing(steps[0])
        return _train(arguments, client, tracked, state)


def _train(
    arguments: WorkerArguments, client: MonitorClient, tracked: tracking.Run, state: TrainingState | None
) -> AttemptResult:
    """Train until the training is complete, or until the driver or the cluster asks for a stop."""
    import ray.train.torch
    import torch
    import torch.distributed as dist

    from pipeline.detector.training import train

    training, record = arguments.training, arguments.record
    config, rank = training.config, dist.get_rank()
    if config.device == "cpu" or not torch.cuda.is_available():
        torch.set_num_threads(config.cpus_per_worker)
    detector = _load_initial(training.out)
    data = WorkerData(training, rank, dist.get_world_size())
    metadata = {
        "variant": config.variant,
        "training": record.id,
        "snapshot": record.snapshot_digest,
        "training_corpora": ",".join(sorted(training.snapshot.corpora)),
    }
    log_odds = data.log_odds()
    if log_odds is not None:
        metadata["training_log_odds"] = f"{log_odds:.6f}"
    reporter = Reporter(
        training.out,
        arguments.fence,
        detector,
        metadata,
        tracked,
        rank,
        config.keep_checkpoints,
        config.training.select_by,
        config.training.lora,
    )
    if rank == 0:
        print_now(data.summary())
        print_now(f"resuming from step {state['progress']['step']}" if state else "starting from step 0")
    progress = train(
        detector.to(ray.train.torch.get_device()),
        client.report_batches(data.batches),
        config.training,
        reporter,
        validation_batches=lambda: client.report_validation(data.validation_batches()),
        group_of=data.group_of,
        state=state,
        print_now=print_now,
        should_stop=client.should_stop,
    )
    reporter.finish()
    return AttemptResult(progress.step, progress.is_complete(config.training.optimiser.num_steps))


def print_now(line: str) -> None:
    """Print a line without buffering."""
    print(line, flush=True)


def _load_initial(out: Folder) -> Detector:
    """Load the untrained detector, the same on all ranks."""
    from pipeline.detector.checkpoint import load_detector

    with local_copy(out, INITIAL) as path:
        return load_detector(path).detector


def _silence_loggers() -> None:
    """Silence botocore, which logs every retry, and Ray Train, which logs every report."""
    for name in logging.root.manager.loggerDict:
        if "botocore" in name:
            logging.getLogger(name).setLevel(logging.WARNING)
        elif name.endswith(REPORT_LOGGER):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _tracked_run(arguments: WorkerArguments, out: Folder, rank: int) -> Iterator[tracking.Run]:
    """On rank 0 open the driver's MLflow run, which also writes RUN/metrics.jsonl; elsewhere track nothing."""
    config = arguments.training.config
    with contextlib.ExitStack() as stack:
        file = None
        if rank == 0:
            file = Path(out.location(METRICS)) if out.is_local else _download_metrics(out, stack)
        yield stack.enter_context(
            tracking.run(
                config.tracking_uri if rank == 0 else "",
                config.experiment,
                job="train",
                name=f"train {config.variant}",
                identity=arguments.record.run_tags,
                metrics_file=file,
                is_owner=False,
            )
        )


def _download_metrics(out: Folder, stack: contextlib.ExitStack) -> Path:
    """Copy the metrics of earlier attempts to a local file, to which new ones are appended."""
    file = stack.enter_context(temporary_folder()) / METRICS
    if out.exists(METRICS):
        file.write_bytes(out.read(METRICS))
    return file
