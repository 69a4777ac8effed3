"""Runs attempts of Ray Train until a training is complete, each from the newest checkpoint.

Ray Train can restart failed workers itself. Here each attempt is a Ray Train run of its own, because then this
driver decides what is retried: a lost machine is, an error that the user has to fix is not, and neither is a step
that fails again and again.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from jobs.training import checkpoints, monitor, waiting, worker
from jobs.training.data import name_utterances
from jobs.training.folder import CHECKPOINTS, RAY_CHECKPOINT_LIST
from jobs.training.monitor import MonitorState, Position
from jobs.training.worker import AttemptResult, WorkerArguments
from pipeline.errors import InputError, UnavailableError
from pipeline.signals import StopSignals
from pipeline.storage import WRITE_REMEDIES, local_errors

if TYPE_CHECKING:
    from jobs.training.ray_trainer import LeanTrainer

MAX_FAILURES_PER_POSITION = 3
"""Give up after this many failures at the same step; retrying would fail there again."""

POLL_S = "0.5"
"""How often Ray Train checks its workers; its default of 2 s is long for short trainings."""

RESIZE_INTERVAL_S = 20.0
"""How often an elastic training looks for more machines. Ray Train itself learns of them every 20 s."""

START_TIMEOUT_S = "10"
"""How long an elastic training waits for the workers for which it has seen room, before it looks again."""

PAUSE_S = 15.0
"""Wait before retrying a storage that was unavailable; doubled for each failure in a row."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed for a reason that may pass."""

    summary: str
    """Which rank failed, and how."""
    position: Position | None
    """Where the rank failed; None before its first step, or if the failure does not depend on the position."""
    error: Exception
    details: str = ""
    """A traceback, or how a process ended."""


@dataclass
class RetryPolicy:
    """Counts failures and decides about retries; a new driver starts counting from zero."""

    max_failures: int
    name_utterances: Callable[[Sequence[str]], str] = ", ".join
    """Names utterances by their uids, for a message."""
    num_in_row: int = 0
    num_at: Counter[str] = field(default_factory=Counter)
    """Failures at each position."""

    def delay_s(self, failure: Failure, *, has_progressed: bool) -> float:
        """Return how many seconds to wait before the next attempt.

        Args:
            failure: how the attempt failed.
            has_progressed: whether the attempt wrote a checkpoint.

        Raises:
            InputError: the same position failed too often.
            Exception: the error of the failure, after too many failures in a row without a checkpoint.
        """
        self.num_in_row = 1 if has_progressed else self.num_in_row + 1
        if failure.position is not None:
            self.num_at[failure.position.name] += 1
            if self.num_at[failure.position.name] == MAX_FAILURES_PER_POSITION:
                utterances = self.name_utterances(failure.position.uids) or "not read yet"
                raise InputError(
                    f"{failure.position.name} failed {MAX_FAILURES_PER_POSITION} times, "
                    f"the last time because {failure.summary}; its utterances: {utterances}"
                ) from failure.error
        if self.num_in_row > self.max_failures:
            raise failure.error
        is_unavailable = isinstance(failure.error, UnavailableError)
        return PAUSE_S * 2 ** (self.num_in_row - 1) if is_unavailable else 0.0


def run_until_complete(arguments: WorkerArguments, signals: StopSignals) -> None:
    """Run attempts until the training is complete.

    Raises:
        InputError: this machine is too small for the workers, or a worker met an error that the user has to fix.
        SystemExit: a signal was received; the training has stopped at a checkpoint.
    """
    import ray

    config = arguments.training.config
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    use_gpu = config.device == "cuda" or (config.device == "auto" and resources.get("GPU", 0) > 0)
    check_resources(config.num_workers, config.cpus_per_worker, resources, use_gpu)
    folder = arguments.training.out.folder(CHECKPOINTS)
    retry_policy = RetryPolicy(config.max_failures, functools.partial(name_utterances, arguments.training))
    while True:
        step_before = checkpoints.newest_step(folder)
        result = run_attempt(arguments, use_gpu, signals)
        step = checkpoints.newest_step(folder)
        if isinstance(result, Failure):
            print(result.details, file=sys.stderr)
            pause_s = retry_policy.delay_s(result, has_progressed=step > step_before)
            where = f" in {result.position.name}" if result.position else ""
            print(f"{result.summary}{where}; resuming from step {step}", flush=True)
            time.sleep(pause_s)
        elif result.is_complete:
            return
        elif signals.is_received:
            signals.exit_resumable(f"at step {result.step}")
        else:
            print(f"a machine is about to be preempted; resuming from step {step}", flush=True)


def run_attempt(arguments: WorkerArguments, use_gpu: bool, signals: StopSignals) -> AttemptResult | Failure:
    """Train with the available workers until the training is complete, is stopped, or fails."""
    import ray
    from ray.train import TrainingFailedError

    from jobs.training.ray_trainer import has_room, refresh_machines

    config = arguments.training.config
    folder = arguments.training.out.folder(CHECKPOINTS)
    checkpoints.prune(folder, config.keep_checkpoints)
    # Ray overwrites this list in place and cannot start from one that was cut short. `committed.json` replaces it.
    folder.delete(RAY_CHECKPOINT_LIST)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    smallest, largest = config.num_workers
    if smallest != largest:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_TIMEOUT_S)
        refresh_machines()
    with monitor.start_monitor() as actor, waiting.explained(config, use_gpu, has_room):

        def stop_workers() -> None:
            if not ray.get(actor.stop.remote()):
                signals.exit_resumable("before its first step")

        trainer = build_trainer(arguments, actor, use_gpu)
        fit: Any = trainer.fit  # its type does not know that a training function can have a result
        try:
            return cast("AttemptResult", signals.call(fit, stop_workers).return_value)
        except TrainingFailedError as error:
            errors = getattr(error, "worker_failures", {})
            raise_user_error(errors)
            # Ray Train keeps a list of checkpoints of its own beside ours.
            raise_disk_error([*errors.values(), getattr(error, "controller_failure", error)], folder.uri)
            return find_cause(error, errors, monitor.read_state(actor))
        except ray.exceptions.RayActorError as error:
            trainer.end_controller(error)
            return Failure("Ray Train's controller died", None, error, str(error))


def build_trainer(arguments: WorkerArguments, actor: Any, use_gpu: bool) -> LeanTrainer:
    """Set Ray Train up for one attempt."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from jobs.training.process_group import ProcessGroupConfig
    from jobs.training.ray_trainer import LeanTrainer

    config = arguments.training.config
    smallest, largest = config.num_workers
    return LeanTrainer(
        cast("Callable[[dict[Any, Any]], None]", worker.train_worker),
        train_loop_config={"arguments": arguments, "monitor": actor},
        backend_config=ProcessGroupConfig("nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=cast("int", largest if smallest == largest else (smallest, largest)),
            use_gpu=use_gpu,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=CHECKPOINTS,
            storage_path=arguments.training.out.uri,
            failure_config=FailureConfig(max_failures=0),
            # Ray Train raises its errors as well, and tries some again; its log files have everything.
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def check_resources(
    num_workers: tuple[int, int], cpus_per_worker: int, resources: Mapping[str, float], use_gpu: bool
) -> None:
    """Refuse more workers than this machine can hold, for which Ray would wait forever; a cluster may still grow."""
    if os.environ.get("RAY_ADDRESS"):
        return
    smallest, _ = num_workers
    needed = {"CPU": smallest * cpus_per_worker, "GPU": smallest if use_gpu else 0}
    for name, number in needed.items():
        available = int(resources.get(name, 0))
        if number > available:
            raise InputError(
                f"{smallest} workers need {number} {name}s and this machine has {available}; "
                "lower --num-workers, or name a cluster in RAY_ADDRESS"
            )


def raise_user_error(errors: Mapping[int, BaseException]) -> None:
    """Raise an InputError for an error of a rank that would occur again in the next attempt."""
    from pipeline.detector.state import NonFiniteError

    for error in errors.values():
        if isinstance(error, (InputError, NonFiniteError)) and not isinstance(error, UnavailableError):
            raise InputError(str(error)) from error


def raise_disk_error(errors: Iterable[BaseException], place: str) -> None:
    """Raise an InputError for a disk that is full or cannot be written to, as it would be in the next attempt.

    Args:
        errors: of the ranks and of Ray Train.
        place: where those write that name no file.
    """
    for error in errors:
        if isinstance(error, OSError) and error.errno in WRITE_REMEDIES:
            with local_errors(str(error.filename or place)):
                raise error


def find_cause(error: Exception, errors: Mapping[int, BaseException], state: MonitorState) -> Failure:
    """Find the rank that failed first: when one fails, the others fail because they lose it.

    A rank that died could not report its failure. If none died, the first that reported one is the cause.
    """
    for rank, rank_error in errors.items():
        if isinstance(rank_error, UnavailableError):
            return Failure(f"rank {rank} cannot continue: {rank_error}", None, rank_error)
    dead_ranks = [rank for rank in errors if rank not in state.failed_ranks]
    suspects = [*dead_ranks, *state.failed_ranks]
    if not suspects:
        return Failure(f"Ray Train failed: {first_line(error)}", None, error, str(error))
    first = suspects[0]
    lines = str(errors.get(first, "")).strip().splitlines() or [""]
    if first in dead_ranks:
        # The last of many lines says how the process ended.
        return Failure(f"rank {first} died", state.positions.get(first), error, lines[-1])
    summary = f"rank {first} raised {type(errors.get(first)).__name__}: {lines[-1]}"
    return Failure(summary, state.positions.get(first), error, str(error))


def first_line(error: BaseException) -> str:
    """Name an error and the first line of its message; of an error that wraps another one, the inner one."""
    while (inner := getattr(error, "controller_failure", None) or getattr(error, "cause", None)) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])
