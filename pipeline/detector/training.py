"""The training loop: takes batches and a detector, returns reports and checkpoints; needs torch alone.

Every rank of a torch.distributed group runs `train` with its own share of the batches; without a group it runs
alone. A checkpoint determines everything that follows: on a CPU in float32, a resumed training ends with the same
bits as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.detector.batch import Batch
from pipeline.detector.config import TrainingConfig
from pipeline.detector.meter import Meter, StepRequests
from pipeline.detector.network import Detector
from pipeline.detector.state import Report, TrainingProgress, TrainingState
from pipeline.detector.stream import Batches
from pipeline.detector.trainer import Trainer
from pipeline.detector.validation import Validation
from pipeline.metrics.grouped import Group, Selection, describe_rates


def train(
    detector: Detector,
    batches: Batches,
    config: TrainingConfig,
    report: Report,
    *,
    validation_batches: Callable[[], Iterable[Batch]] | None = None,
    group_of: Mapping[str, Group] | None = None,
    state: TrainingState | None = None,
    print_now: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingProgress:
    """Train a detector, already on its device, from `state` or from the first step.

    Args:
        detector: trained in place.
        batches: this rank's share of the training data.
        config: settings of the training.
        report: called on every rank at the same steps.
        validation_batches: this rank's share of the validation data; without it there is no validation.
        group_of: uid → corpus and attack, of all validation data.
        state: a checkpoint; the one of rank 0 is used on all ranks.
        print_now: prints a line of progress.
        should_stop: asked before every step on every rank. As soon as one rank answers yes, all ranks report a
            checkpoint of that step and return.

    Returns:
        The position at which the training ended or was interrupted.

    Raises:
        InputError: the data are too few for one batch per rank.
        NonFiniteError: too many steps were skipped.
    """
    trainer = Trainer(detector, batches, config)
    progress = trainer.restore(state)
    meter, requests = Meter(trainer.world, trainer.device, config), StepRequests()
    last_checkpoint_s = time.monotonic()
    while not (progress.is_complete(config.optimiser.num_steps) or progress.is_interrupted):
        if not progress.is_validation_due:
            is_time = 0 < config.checkpoint_minutes * 60 <= time.monotonic() - last_checkpoint_s
            progress, requests = trainer.step(
                progress, meter, StepRequests(should_stop(), is_time and trainer.rank == 0)
            )
            if trainer.rank == 0 and (warning := meter.warning(progress.step)):
                print_now(warning)
            if trainer.rank == 0 and meter.is_line_due():
                print_now(meter.line(progress.step, config.optimiser.num_steps))
        actions = _plan_actions(progress, config, requests, has_validation=validation_batches is not None)
        progress = replace(
            progress,
            is_validation_due=actions.validate and requests.stop,
            is_interrupted=requests.stop and (actions.validate or not actions.is_last),
        )
        if not actions.report:
            continue
        metrics = meter.metrics() | {
            "train/epoch": progress.epoch,
            "train/skipped_steps": progress.num_skipped,
        }
        validation = None
        if validation_batches is not None and actions.validate and not requests.stop:
            validations = trainer.validate(validation_batches, group_of or {})
            # Of equal ones the first, the weights themselves.
            validation = min(validations, key=lambda each: each.error(config.select_by))
            progress = update_best(progress, validation, config)
            for each in validations:
                metrics |= each.metrics()
            if trainer.rank == 0:
                print_now(_validation_line(progress, validations, config.select_by))
        if actions.checkpoint:
            last_checkpoint_s = time.monotonic()
        report(progress, metrics, trainer.state(progress) if actions.checkpoint else None, validation)
        meter.restart()
    return progress


@dataclass(frozen=True, slots=True)
class _StepActions:
    """What follows a step."""

    is_last: bool
    validate: bool
    checkpoint: bool
    report: bool


def _plan_actions(
    progress: TrainingProgress, config: TrainingConfig, requests: StepRequests, *, has_validation: bool
) -> _StepActions:
    step = progress.step
    is_last = step == config.optimiser.num_steps
    validate = has_validation and (is_last or step % config.validate_every == 0)
    checkpoint = validate or is_last or requests != StepRequests() or step % config.checkpoint_every == 0
    return _StepActions(is_last, validate, checkpoint, checkpoint or step % config.log_every == 0)


def update_best(
    progress: TrainingProgress, validation: Validation, config: TrainingConfig
) -> TrainingProgress:
    """Record the best step; stop early after `patience` validations without a better EER."""
    error = validation.error(config.select_by)
    if progress.best_error is None or error < progress.best_error:
        return replace(
            progress,
            best_error=error,
            best_step=progress.step,
            best_weights=validation.weights,
            num_stale=0,
        )
    num_stale = progress.num_stale + 1
    is_stopped_early = 0 < config.patience <= num_stale and progress.step < config.optimiser.num_steps
    return replace(progress, num_stale=num_stale, is_stopped_early=is_stopped_early)


def _validation_line(
    progress: TrainingProgress, validations: Sequence[Validation], select_by: Selection
) -> str:
    assert progress.best_error is not None
    rates = "; EMA ".join(describe_rates(each.error_rates.by_selection) for each in validations)
    best = describe_rates({select_by: progress.best_error})
    if progress.best_weights == "ema":
        best += " (EMA)"
    line = (
        f"step {progress.step}  validation EER {rates} on {validations[0].num_utterances} utterances  "
        f"(best {best} at step {progress.best_step})"
    )
    if progress.is_stopped_early:
        line += f"; stopping early after {progress.num_stale} validations without a better EER"
    return line
