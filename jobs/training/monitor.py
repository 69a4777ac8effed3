"""Where the ranks of a training post what they are at, and read whether they shall stop.

The board is a Ray actor beside the driver: it outlives a rank that dies, so that the driver can tell what the rank
was doing, and dies with the driver, so that ranks without one stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.loading.batches import Batch

STEPS_PER_QUESTION = 10
"""Steps between two times that the ranks ask together whether a machine of theirs is about to be taken away."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a rank is at."""

    name: str
    """`step 12`, or `the validation after step 12`."""
    uids: tuple[str, ...] = ()
    """The utterances of its batch, once they are read."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What ranks left on a board."""

    places: dict[int, Place]
    """Where each rank was last."""
    gave_up: list[int]
    """The ranks that an exception ended, the first one first."""


class Board:
    """The actor."""

    def __init__(self) -> None:
        self._posted = Posted({}, [])
        self._is_stopping = False

    def post(self, rank: int, place: Place) -> bool:
        """Take down where a rank is; returns whether it shall stop."""
        self._posted.places[rank] = place
        return self._is_stopping

    def give_up(self, rank: int) -> None:
        """Take down that an exception ended a rank."""
        self._posted.gave_up.append(rank)

    def stop(self) -> bool:
        """Have all ranks stop; returns whether there is one to hear it."""
        self._is_stopping = True
        return bool(self._posted.places)

    def read(self) -> Posted:
        """All that was posted."""
        return self._posted


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """A board on the driver's machine, as a handle that travels to ranks."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        yield board
    finally:
        ray.kill(board)


def read(board: Any) -> Posted:
    """What was posted on a board, as far as it is there still."""
    import ray

    try:
        posted: Posted = ray.get(board.read.remote())
    except ray.exceptions.RayActorError:
        return Posted({}, [])
    return posted


class Watched:
    """One rank's side of a board: posts without waiting, and sees what was answered the next time."""

    def __init__(self, board: Any, rank: int, step: int) -> None:
        self._board = board
        self._rank = rank
        self._step = step
        self._answer: Any = None
        self._is_stopping = False

    def should_stop(self) -> bool:
        """Called before each step on every rank: whether the driver or the cluster wants the training to pause."""
        self._step += 1
        self._post(Place(f"step {self._step}"))
        return self._is_stopping or self._is_leaving()

    def batches(
        self, batches: Callable[[int, int], Iterator[Batch]]
    ) -> Callable[[int, int], Iterator[Batch]]:
        """The same batches, each posted when it is read."""

        def watched(epoch: int, first_batch: int) -> Iterator[Batch]:
            for batch in batches(epoch, first_batch):
                self._post(Place(f"step {self._step}", tuple(batch.uid)))
                yield batch

        return watched

    def validation(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same held-out batches, each posted when it is read."""
        name = f"the validation after step {self._step}"
        self._post(Place(name))
        for batch in batches:
            self._post(Place(name, tuple(batch.uid)))
            yield batch

    def _post(self, place: Place) -> None:
        import ray

        answer = self._board.post.remote(self._rank, place)
        if self._answer is None:
            self._answer = answer
        elif ray.wait([self._answer], timeout=0)[0]:
            # With the driver the board is gone, and this raises: nobody would hear of what the rank does.
            self._is_stopping |= ray.get(self._answer)
            self._answer = None

    def _is_leaving(self) -> bool:
        """Whether Ray knows of a machine of this training that is about to be taken away; all ranks ask at once."""
        import ray.train

        if self._step % STEPS_PER_QUESTION:
            return False
        return ray.train.get_preemption_info() is not None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Post that an exception ended the rank, if one does."""
        try:
            yield
        except Exception:
            self._board.give_up.remote(self._rank)
            raise
