"""How far a training is, what a checkpoint of it holds, and how it is told to the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is; with the seed it determines every batch that is still to come."""

    step: int = 0
    """Optimiser steps done, skipped ones included."""
    epoch: int = 0
    batch: int = 0
    """Batches that all ranks together took from this epoch."""
    world: int = 1
    """Ranks of the last step."""
    best_eer: float | None = None
    best_step: int = 0
    num_stale: int = 0
    """Validations since the best one."""
    num_skipped: int = 0
    skipped_uids: tuple[str, ...] = ()
    """The utterances of skipped steps; of a step whose bad batches are known only those."""
    is_validation_due: bool = False
    """The training was interrupted at a step with a validation: that comes first when it goes on."""
    is_interrupted: bool = False
    """`should_stop` ended `train` before the training was over."""
    is_stopped_early: bool = False
    """The training is over: no validation improved for as long as `patience` allows."""

    def is_over(self, num_steps: int) -> bool:
        """Whether nothing is left to do."""
        return not self.is_validation_due and (self.step >= num_steps or self.is_stopped_early)


State = dict[str, Any]
"""What `torch.save` keeps of a training.

`detector`: the released layout, whole; `loss`: the weights of the loss; `optimiser`: the moments of each weight by
its name; `scaler`; `rng`: the generators of each rank; `progress`. Nothing in it tells how many ranks there were
or how they shared the work, so any number of them, replicated or sharded, goes on from it. The tensors are those
of rank 0: elsewhere `detector`, `loss` and `optimiser` are empty.
"""


class Report(Protocol):
    """Takes what the loop has to say; called on every rank at the same steps."""

    def __call__(self, progress: Progress, metrics: Mapping[str, float], state: State | None) -> None:
        """`metrics` are over all ranks; `state` is given when it is time for a checkpoint.

        The tensors in `state` may be the live ones: copy or write them before returning.
        """


class NonFiniteError(ArithmeticError):
    """Too many steps had a loss or a gradient that is not finite; the message names the utterances."""
