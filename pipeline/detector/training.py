"""The training loop: batches and a detector in, reports and checkpoints out; torch only.

Every rank of a torch.distributed group runs `train` with its own share of the batches; without a group it
runs alone. What a checkpoint holds decides everything that follows: on a CPU in float32 a resumed training
ends in the very bits of one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.detector.batch import Batch
from pipeline.detector.config import TrainingConfig
from pipeline.detector.meter import Meter, StepRequests
from pipeline.detector.network import Detector
from pipeline.detector.state import NonFiniteError, Progress, Report, State
from pipeline.detector.stream import Batches
from pipeline.detector.trainer import Trainer
from pipeline.detector.validation import Validation

__all__ = ["Batches", "NonFiniteError", "Progress", "Report", "State", "train"]


def train(
    detector: Detector,
    batches: Batches,
    config: TrainingConfig,
    report: Report,
    *,
    validation: Callable[[], Iterable[Batch]] | None = None,
    corpus_of: Mapping[str, str] | None = None,
    state: State | None = None,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
    on_validation: Callable[[Progress, Validation], None] = lambda *_: None,
) -> Progress:
    """Train a detector, which lies on its device already, from `state` or from the start.

    state: what rank 0 has counts, on all ranks.
    validation: this rank's share of the held-out batches; corpus_of: uid → corpus, for an EER each.
    should_stop: asked in every step on every rank; as soon as one says yes, all of them report a checkpoint of
    that step and return. on_validation: gets the scores of each validation, on every rank, before its report.
    Raises InputError when the data make no batch, NonFiniteError after too many skipped steps.
    """
    trainer = Trainer(detector, batches, config)
    progress = trainer.restore(state)
    meter, wishes = Meter(trainer.world, trainer.device, config), StepRequests()
    saved = time.monotonic()
    while not (progress.is_over(config.optimiser.num_steps) or progress.is_interrupted):
        if not progress.is_validation_due:
            is_time = 0 < config.checkpoint_minutes * 60 <= time.monotonic() - saved
            progress, wishes = trainer.step(
                progress, meter, StepRequests(should_stop(), is_time and trainer.rank == 0)
            )
            if trainer.rank == 0 and meter.is_time_to_speak():
                say(meter.line(progress.step, config.optimiser.num_steps))
        todo = _plan(progress, config, wishes, has_validation=validation is not None)
        progress = replace(
            progress,
            is_validation_due=todo.is_validation and wishes.stop,
            is_interrupted=wishes.stop and (todo.is_validation or not todo.is_last),
        )
        if not todo.is_report:
            continue
        metrics = meter.flush() | {"epoch": progress.epoch, "skipped_steps": progress.num_skipped}
        if validation is not None and todo.is_validation and not wishes.stop:
            found = trainer.validate(validation(), corpus_of)
            progress = _judge(progress, found, config)
            metrics |= found.metrics()
            on_validation(progress, found)
            if trainer.rank == 0:
                say(_validation_line(progress, found))
        if todo.is_checkpoint:
            saved = time.monotonic()
        report(progress, metrics, trainer.state(progress) if todo.is_checkpoint else None)
        meter.restart()
    return progress


@dataclass(frozen=True, slots=True)
class _Todo:
    """What follows a step."""

    is_last: bool
    is_validation: bool
    is_checkpoint: bool
    is_report: bool


def _plan(progress: Progress, config: TrainingConfig, wishes: StepRequests, *, has_validation: bool) -> _Todo:
    step = progress.step
    is_last = step == config.optimiser.num_steps
    is_validation = has_validation and (is_last or step % config.validate_every == 0)
    is_checkpoint = (
        is_validation or is_last or wishes != StepRequests() or step % config.checkpoint_every == 0
    )
    return _Todo(is_last, is_validation, is_checkpoint, is_checkpoint or step % config.log_every == 0)


def _judge(progress: Progress, found: Validation, config: TrainingConfig) -> Progress:
    """Keep the best step, and lose patience after enough validations without a better one."""
    if progress.best_eer is None or found.eer < progress.best_eer:
        return replace(progress, best_eer=found.eer, best_step=progress.step, num_stale=0)
    num_stale = progress.num_stale + 1
    is_stopped_early = 0 < config.patience <= num_stale and progress.step < config.optimiser.num_steps
    return replace(progress, num_stale=num_stale, is_stopped_early=is_stopped_early)


def _validation_line(progress: Progress, found: Validation) -> str:
    assert progress.best_eer is not None
    line = (
        f"step {progress.step}  validation EER {found.eer:.2%} on {found.num_utterances} utterances  "
        f"(best {progress.best_eer:.2%} at step {progress.best_step})"
    )
    return line + (f"; {progress.num_stale} were no better, so it ends" if progress.is_stopped_early else "")
