"""The position of a training, the content of its checkpoints, and the function that it reports to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.detector.config import Weights
from pipeline.detector.validation import Validation


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """The position of a training; together with the seed it determines every batch still to come."""

    step: int = 0
    """Optimiser steps taken, including skipped ones."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that all ranks together have taken."""
    world: int = 1
    """Number of ranks in the last step."""
    num_updates: int = 0
    """Optimiser steps that changed the weights, so without skipped ones."""
    best_error: float | None = None
    """Lowest error rate of a validation, of those that `select_by` chooses."""
    best_step: int = 0
    best_weights: Weights = "raw"
    num_stale: int = 0
    """Validations since the best one."""
    num_skipped: int = 0
    skipped_uids: tuple[str, ...] = ()
    """Utterances of skipped steps. If the failing batch is known, only its utterances."""
    is_validation_due: bool = False
    """The training was interrupted before the validation of this step; a resumed training validates first."""
    is_interrupted: bool = False
    """`should_stop` ended `train` before the training was complete."""
    is_stopped_early: bool = False
    """The training is complete because `patience` validations in a row brought no better EER."""

    def is_complete(self, num_steps: int) -> bool:
        """Whether no step and no validation is left."""
        return not self.is_validation_due and (self.step >= num_steps or self.is_stopped_early)


TrainingState = dict[str, Any]
"""The content of a checkpoint, as `torch.save` writes it.

`detector`: full weights in the released layout; `average`: those of the weights that train, if the training keeps an
average; `loss`: weights of the loss; `optimiser`: moments of each weight by its name; `scaler`: of fp16; `rng`: random
generators of each rank; `progress`: fields of `TrainingProgress`. Nothing depends on the number of ranks or on how they
shared the work, so any number of ranks, replicated or sharded, can resume from it. Only rank 0 holds the tensors: on
other ranks the parts with tensors are empty.
"""


class Report(Protocol):
    """Receives metrics, checkpoints and validations; called on every rank at the same steps."""

    def __call__(
        self,
        progress: TrainingProgress,
        metrics: Mapping[str, float],
        state: TrainingState | None,
        validation: Validation | None,
    ) -> None:
        """Take one report.

        Args:
            progress: the position after the step.
            metrics: values over all ranks, by the names that MLflow shows: `train/…`, `speed/…`, `validation/…`.
            state: given when a checkpoint is due. Its tensors may be the live ones: copy or write them before
                returning.
            validation: the result of a validation after this step, of the better of the weights and their average;
                always accompanied by a state.
        """


class NonFiniteError(ArithmeticError):
    """Too many steps had a loss or a gradient that is not finite; the message names the utterances."""
