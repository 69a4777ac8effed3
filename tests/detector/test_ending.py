"""How a training ends, stops and resumes: interruption, patience, and when checkpoints are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.detector.config import TrainingConfig, Weights
from pipeline.detector.state import TrainingProgress
from pipeline.detector.training import update_best
from pipeline.detector.validation import Validation
from pipeline.errors import InputError
from pipeline.metrics import ErrorRates, Group, GroupedScores, equal_error_rate
from tests.detector.toys import (
    TOY_GROUPS,
    assert_same_weights,
    run,
    toy_batches,
    toy_config,
    toy_validation,
)


def after(num_calls: int) -> Callable[[], bool]:
    """Make a `should_stop` that returns True from call number `num_calls` on."""
    calls = iter(range(1, 1_000_000))
    return lambda: next(calls) >= num_calls


@pytest.mark.parametrize("step", [1, 7, 10, 20])
def test_an_interrupted_training_resumes_bit_for_bit(step: int) -> None:
    uninterrupted, log, end = run(toy_config(), validation_batches=toy_validation)
    _, first, stopped = run(toy_config(), validation_batches=toy_validation, should_stop=after(step))
    assert (stopped.step, stopped.is_interrupted) == (step, True)
    assert max(first.metrics) == step
    resumed, later, progress = run(toy_config(), validation_batches=toy_validation, state=first.states[step])
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())
    assert progress == end
    assert first.losses | later.losses == log.losses
    for at in (10, 20):
        eers = {part.metrics.get(at, {}).get("validation/eer") for part in (first, later)} - {None}
        assert eers == {log.metrics[at]["validation/eer"]}


def test_an_interruption_postpones_a_due_validation_until_the_training_resumes() -> None:
    _, log, progress = run(toy_config(), validation_batches=toy_validation, should_stop=after(10))
    assert progress.is_validation_due
    assert "validation/eer" not in log.metrics[10]
    _, later, _ = run(
        toy_config(), validation_batches=toy_validation, state=log.states[10], should_stop=after(1)
    )
    assert "validation/eer" in later.metrics[10]
    assert "train/loss" not in later.metrics[10]
    assert max(later.metrics) == 11


def test_a_training_interrupted_at_its_last_step_is_complete() -> None:
    _, log, progress = run(toy_config(5), should_stop=after(5))
    assert not progress.is_interrupted
    assert progress.is_complete(5)
    assert 5 in log.states


@pytest.fixture(scope="module")
def stale_config() -> TrainingConfig:
    """A learning rate so low that no validation improves on the first."""
    config = toy_config(40, patience=3, validate_every=4)
    return replace(config, optimiser=replace(config.optimiser, learning_rate=1e-12))


def test_a_training_that_does_not_improve_stops_early(
    stale_config: TrainingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    _, log, progress = run(stale_config, validation_batches=toy_validation)
    assert (progress.step, progress.best_step, progress.num_stale) == (16, 4, 3)
    assert progress.is_stopped_early
    assert progress.is_complete(40)
    assert max(log.states) == 16
    assert "stopping early after 3 validations without a better EER" in capsys.readouterr().out


@pytest.mark.parametrize("interrupted_at", [5, 12])
def test_a_resumed_training_stops_early_at_the_same_step(
    stale_config: TrainingConfig, interrupted_at: int
) -> None:
    _, log, end = run(stale_config, validation_batches=toy_validation)
    _, _, resumed = run(stale_config, validation_batches=toy_validation, state=log.states[interrupted_at])
    assert resumed == end


def test_a_training_that_stopped_early_does_not_resume(stale_config: TrainingConfig) -> None:
    _, log, end = run(stale_config, validation_batches=toy_validation)
    _, later, again = run(stale_config, validation_batches=toy_validation, state=log.states[16])
    assert again == end
    assert not later.metrics


def test_a_better_validation_resets_patience() -> None:
    _, _, progress = run(toy_config(24, patience=2, validate_every=2), validation_batches=toy_validation)
    assert progress.best_step > 2
    assert progress.step == min(24, progress.best_step + 4)


def test_checkpoints_are_also_written_by_time() -> None:
    config = toy_config(4, checkpoint_every=100)
    assert set(run(config)[1].states) == {4}
    assert set(run(replace(config, checkpoint_minutes=1e-9))[1].states) == {1, 2, 3, 4}
    assert set(run(replace(config, checkpoint_minutes=1e9))[1].states) == {4}


def test_impossible_intervals_are_rejected() -> None:
    with pytest.raises(InputError, match="--patience -1"):
        toy_config(patience=-1)
    with pytest.raises(InputError, match="--checkpoint-minutes -1"):
        toy_config(checkpoint_minutes=-1.0)


def test_a_validation_is_reported_with_its_scores_by_class_and_corpus() -> None:
    group_of = {uid: Group("ab"[int(uid[3]) % 2], group.attack) for uid, group in TOY_GROUPS.items()}
    _, log, progress = run(toy_config(10), toy_batches, validation_batches=toy_validation, group_of=group_of)
    assert log.validations.keys() == {10}
    validation = log.validations[10]
    scores, eer = validation.scores, validation.error_rates.pooled
    assert (progress.step, progress.best_error) == (10, eer)
    assert [len(part) for part in scores.all] == [16, 16]
    assert equal_error_rate(*scores.all).eer == eer == log.metrics[10]["validation/eer"]
    parts = [scores.by_corpus[name].bonafide for name in "ab"]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), scores.all.bonafide)


def test_frames_select_the_weights() -> None:
    def validation(frames: float | None) -> Validation:
        return Validation("raw", ErrorRates(0.1, {}, {}, frames), 8, GroupedScores({}))

    config = toy_config(100, select_by="frames")
    progress = TrainingProgress()
    for step, frames in ((10, 0.3), (20, 0.2), (30, 0.25)):
        progress = update_best(replace(progress, step=step), validation(frames), config)
    assert (progress.best_error, progress.best_step) == (0.2, 20)
    assert validation(0.25).metrics() == {"validation/eer": 0.1, "validation/frame_eer": 0.25}
    with pytest.raises(InputError, match="select-by frames: the validation data have no such error rate"):
        update_best(progress, validation(None), config)


def test_patience_counts_validations_without_a_better_selected_error() -> None:
    def validation(pooled: float, attack: float, weights: Weights = "raw") -> Validation:
        rates = ErrorRates(pooled, {"a": pooled}, {Group("a", "x"): 0.2, Group("a", "y"): attack})
        return Validation(weights, rates, 8, GroupedScores({}))

    config = toy_config(100, select_by="attacks", patience=2)
    progress = update_best(TrainingProgress(step=10), validation(0.5, 0.4), config)
    progress = update_best(replace(progress, step=20), validation(0.1, 0.4), config)
    assert progress.best_error == pytest.approx(0.3)
    assert (progress.best_step, progress.num_stale) == (10, 1)
    progress = update_best(replace(progress, step=30), validation(0.6, 0.2, "ema"), config)
    assert (progress.best_error, progress.best_step, progress.best_weights) == (0.2, 30, "ema")
    for step in (40, 50):
        assert not progress.is_stopped_early
        progress = update_best(replace(progress, step=step), validation(0.0, 0.3), config)
    assert progress.is_stopped_early
