"""Trains on the cluster until the training is over: attempts of Ray Train, each from the newest checkpoint.

Ray Train could start lost workers again by itself. Here each attempt is a run of its own, because only then it is
ours to say what is worth another one: lost machines are, what the user has to mend is not, and neither is a step
that fails again and again.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from jobs.training import checkpoints
from jobs.training import monitor as board
from jobs.training import worker as rank
from jobs.training.monitor import Place, Posted
from jobs.training.signals import Interrupts
from pipeline.errors import InputError, UnavailableError
from pipeline.storage import Folder

if TYPE_CHECKING:
    from jobs.training.worker import Ended, RankArguments

SAME_PLACE = 3
"""Failures in one and the same place that end the training: a fourth would be no other."""

POLL_S = "0.5"
"""How often Ray Train looks after its workers; its own two seconds are long where everything else is quick."""


PAUSE_S = 15.0
"""Wait before trying a storage again that was away; each time in a row twice as long."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed, and might not do so another time."""

    words: str
    """Which rank failed and how, in a few words."""
    place: Place | None
    """Where the rank was; None before it began, or where the place is not to blame."""
    error: Exception
    details: str = ""
    """What else is known of it: a traceback, or how a process ended."""


@dataclass
class Patience:
    """Counts failures until it makes no sense to try again; a driver begins with fresh patience."""

    max_failures: int
    num_in_row: int = 0
    at: Counter[str] = field(default_factory=Counter)

    def spend(self, failure: Failure, *, is_further: bool) -> float:
        """Return after how many seconds another attempt is worth while.

        is_further: the attempt left a newer checkpoint than there was before.
        Raises InputError when one place has failed too often, and what happened when there were too many failures
        in a row without any progress.
        """
        self.num_in_row = 1 if is_further else self.num_in_row + 1
        if failure.place is not None:
            self.at[failure.place.name] += 1
            if self.at[failure.place.name] == SAME_PLACE:
                uids = ", ".join(failure.place.uids) or "those it was about to read"
                raise InputError(
                    f"{failure.place.name} failed {SAME_PLACE} times, the last time because {failure.words}; "
                    f"its utterances: {uids}"
                ) from failure.error
        if self.num_in_row > self.max_failures:
            raise failure.error
        is_away = isinstance(failure.error, UnavailableError)
        return PAUSE_S * 2 ** (self.num_in_row - 1) if is_away else 0.0


def train_to_the_end(arguments: RankArguments, interrupts: Interrupts) -> None:
    """Attempt until the training is over.

    Raises:
        InputError: what the workers need is not there, or what they met is the user's to mend.
        SystemExit: a signal came; the training stands at a checkpoint.
    """
    import ray

    config = arguments.config
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    use_gpu = config.device == "cuda" or (config.device == "auto" and resources.get("GPU", 0) > 0)
    check_resources(config.num_workers, config.cpus_per_worker, resources, use_gpu)
    folder = Folder(config.out).folder("checkpoints")
    patience = Patience(config.max_failures)
    while True:
        before = checkpoints.newest_step(folder)
        ended = attempt(arguments, use_gpu, interrupts)
        newest = checkpoints.newest_step(folder)
        if isinstance(ended, Failure):
            print(ended.details, file=sys.stderr)
            pause_s = patience.spend(ended, is_further=newest > before)
            where = f" in {ended.place.name}" if ended.place else ""
            print(f"{ended.words}{where}; going on from step {newest}", flush=True)
            time.sleep(pause_s)
        elif ended.is_over:
            return
        elif interrupts.is_asked:
            interrupts.leave(f"at step {ended.step}")
        else:
            print(f"a machine is about to be taken away; going on from step {newest}", flush=True)


def attempt(arguments: RankArguments, use_gpu: bool, interrupts: Interrupts) -> Ended | Failure:
    """Train with the workers that there are, until the end, a pause, or a failure."""
    import ray
    from ray.train import TrainingFailedError

    folder = Folder(arguments.config.out).folder("checkpoints")
    checkpoints.prune(folder, arguments.config.keep_checkpoints)
    # Ray overwrites its own list in place, and does not start with one that was cut short. Markers replace it.
    folder.delete("checkpoint_manager_snapshot.json")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    with board.opened() as posts:

        def pause() -> None:
            if not ray.get(posts.stop.remote()):
                interrupts.leave("before its first step")

        run = trainer(arguments, posts, use_gpu).fit
        try:
            return cast("Ended", interrupts.call(run, pause).return_value)
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {})
            raise_for_user(failures)
            return describe(error, failures, board.read(posts))
        except ray.exceptions.RayActorError as error:
            return Failure("Ray Train's controller died", None, error, str(error))


def trainer(arguments: RankArguments, posts: Any, use_gpu: bool) -> Any:
    """Ray Train, set up for one attempt; Any: its trainer takes a function of None."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = arguments.config
    least, most = config.num_workers
    return TorchTrainer(
        cast("Callable[[dict[Any, Any]], None]", rank.train_rank),  # its value is passed on
        train_loop_config={"arguments": arguments, "board": posts},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cast("int", most if least == most else (least, most)),  # its types know no pair
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name="checkpoints",
            storage_path=Folder(config.out).location(),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def check_resources(
    num_workers: tuple[int, int], cpus_per_worker: int, resources: Mapping[str, float], use_gpu: bool
) -> None:
    """Ray would wait for ever for what a machine does not have; a cluster may still grow."""
    if os.environ.get("RAY_ADDRESS"):
        return
    least, _ = num_workers
    wanted = {"CPU": least * cpus_per_worker, "GPU": least if use_gpu else 0}
    for name, number in wanted.items():
        there = int(resources.get(name, 0))
        if number > there:
            raise InputError(
                f"{least} workers need {number} {name}s and this machine has {there}; "
                "lower --num-workers, or name a cluster in RAY_ADDRESS"
            )


def raise_for_user(failures: Mapping[int, BaseException]) -> None:
    """Raise, as an InputError, what a rank met that another attempt would meet again."""
    from pipeline.detector.training import NonFiniteError

    for error in failures.values():
        if isinstance(error, (InputError, NonFiniteError)) and not isinstance(error, UnavailableError):
            raise InputError(str(error)) from error


def describe(error: Exception, failures: Mapping[int, BaseException], posted: Posted) -> Failure:
    """Find the rank that failed first: when one goes, the others fail for want of it.

    A rank that died had no time to say so; otherwise the first that gave up is the one.
    """
    for number, met in failures.items():
        if isinstance(met, UnavailableError):
            return Failure(f"rank {number} could not go on: {met}", None, met)
    died = [number for number in failures if number not in posted.gave_up]
    suspects = [*died, *posted.gave_up]
    if not suspects:
        return Failure(str(error).splitlines()[0], None, error, str(error))
    first = suspects[0]
    text = str(failures.get(first, "")).strip().splitlines() or [""]
    if first in died:
        # The last line of many says how the process ended.
        return Failure(f"rank {first} died", posted.places.get(first), error, text[-1])
    words = f"rank {first} met {type(failures.get(first)).__name__}: {text[-1]}"
    return Failure(words, posted.places.get(first), error, str(error))
