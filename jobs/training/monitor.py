"""An actor to which workers report their positions, and from which they learn that they should stop.

The actor runs beside the driver. It outlives a worker that dies, so the driver can tell what that worker was doing,
and it dies with the driver, so workers without a driver stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.loading.batches import Batch

STEPS_PER_PREEMPTION_CHECK = 10
"""Every so many steps, all workers ask at once whether one of their machines is about to be preempted."""


@dataclass(frozen=True, slots=True)
class Position:
    """The current activity of a worker."""

    name: str
    """`step 12`, or `the validation after step 12`."""
    uids: tuple[str, ...] = ()
    """Utterances of its batch, once they are read."""


@dataclass(frozen=True, slots=True)
class MonitorState:
    """Everything that workers have reported."""

    positions: dict[int, Position]
    """Last position of each rank."""
    failed_ranks: list[int]
    """Ranks that raised an exception, the first one first."""


class Monitor:
    """The actor: one per attempt."""

    def __init__(self) -> None:
        self._state = MonitorState({}, [])
        self._is_stopping = False

    def update(self, rank: int, position: Position) -> bool:
        """Record the position of a rank; returns whether it should stop."""
        self._state.positions[rank] = position
        return self._is_stopping

    def record_failure(self, rank: int) -> None:
        """Record that a rank raised an exception."""
        self._state.failed_ranks.append(rank)

    def stop(self) -> bool:
        """Ask all ranks to stop; returns whether any rank has started."""
        self._is_stopping = True
        return bool(self._state.positions)

    def state(self) -> MonitorState:
        """Return everything that was reported."""
        return self._state


@contextlib.contextmanager
def start_monitor() -> Iterator[Any]:
    """Run a monitor on the driver's machine; yields a handle that can be sent to workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    monitor: Any = ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=this_node).remote()
    try:
        yield monitor
    finally:
        ray.kill(monitor)


def read_state(monitor: Any) -> MonitorState:
    """Return the state of a monitor; an empty one if it has died."""
    import ray

    try:
        state: MonitorState = ray.get(monitor.state.remote())
    except ray.exceptions.RayActorError:
        return MonitorState({}, [])
    return state


class MonitorClient:
    """The worker's side: reports without waiting, and reads the answer the next time."""

    def __init__(self, monitor: Any, rank: int, step: int) -> None:
        self._monitor = monitor
        self._rank = rank
        self._step = step
        self._answer: Any = None
        self._is_stopping = False

    def should_stop(self) -> bool:
        """Whether the driver or the cluster wants the training to stop; called before each step on every rank."""
        self._step += 1
        self._report(Position(f"step {self._step}"))
        return self._is_stopping or self._is_preempted()

    def report_batches(
        self, batches: Callable[[int, int], Iterator[Batch]]
    ) -> Callable[[int, int], Iterator[Batch]]:
        """Wrap the training batches: each is reported when it has been read."""

        def reported(epoch: int, first_batch: int) -> Iterator[Batch]:
            for batch in batches(epoch, first_batch):
                self._report(Position(f"step {self._step}", tuple(batch.uid)))
                yield batch

        return reported

    def report_validation(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Wrap the validation batches: each is reported when it has been read."""
        name = f"the validation after step {self._step}"
        self._report(Position(name))
        for batch in batches:
            self._report(Position(name, tuple(batch.uid)))
            yield batch

    @contextlib.contextmanager
    def report_failure(self) -> Iterator[None]:
        """Report an exception that ends the block."""
        try:
            yield
        except Exception:
            self._monitor.record_failure.remote(self._rank)
            raise

    def _report(self, position: Position) -> None:
        import ray

        answer = self._monitor.update.remote(self._rank, position)
        if self._answer is None:
            self._answer = answer
        elif ray.wait([self._answer], timeout=0)[0]:
            # The monitor dies with the driver. Then this raises, and a worker without a driver ends.
            self._is_stopping |= ray.get(self._answer)
            self._answer = None

    def _is_preempted(self) -> bool:
        """Whether Ray knows that a machine of this training is about to be preempted; all ranks ask at once."""
        import ray.train

        if self._step % STEPS_PER_PREEMPTION_CHECK:
            return False
        return ray.train.get_preemption_info() is not None
