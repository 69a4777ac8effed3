"""The training loop, with a tiny detector and utterances of a tenth of a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.detector.config import EmaConfig, LossConfig, OptimiserConfig, TrainingConfig, learning_rate
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.detector.state import NonFiniteError
from pipeline.detector.training import train
from pipeline.detector.validation import validate
from pipeline.errors import InputError
from pipeline.metrics import Group
from tests.detector.toys import (
    NUM_BATCHES,
    TOY_GROUPS,
    Log,
    ToyBatch,
    assert_same_weights,
    run,
    toy_batch,
    toy_batches,
    toy_config,
    toy_detector,
    toy_frame_batches,
    toy_validation,
)

PAPER = OptimiserConfig()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 1e-7 / 80_000),
        (40_000, 0.5e-7),
        (80_000, 1e-7),
        (440_000, 1e-8),
        (800_000, 1e-9),
        (900_000, 1e-9),
    ],
)
def test_the_learning_rate_matches_the_paper(step: int, expected: float) -> None:
    assert learning_rate(step, PAPER) == pytest.approx(expected, rel=1e-12)


def test_the_learning_rate_rises_to_one_peak_and_falls() -> None:
    config = OptimiserConfig(learning_rate=1.0, num_warmup_steps=10, num_steps=100)
    rates = [learning_rate(step, config) for step in range(1, 101)]
    assert rates.index(max(rates)) == 9
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_without_warm_up_the_first_rate_is_close_to_the_peak() -> None:
    config = OptimiserConfig(learning_rate=1.0, num_warmup_steps=0, num_steps=100)
    assert learning_rate(1, config) == pytest.approx(0.01**0.01)


def test_impossible_schedules_are_rejected() -> None:
    with pytest.raises(InputError, match="--num-warmup-steps 11 is more than --num-steps 10"):
        OptimiserConfig(num_warmup_steps=11, num_steps=10)
    with pytest.raises(InputError, match="--log-every 0: expected numbers from 1"):
        TrainingConfig(log_every=0)


def test_training_lowers_the_loss_and_the_eer(capsys: pytest.CaptureFixture[str]) -> None:
    _, log, progress = run(toy_config(40), validation_batches=toy_validation)
    assert log.metrics[40]["validation/eer"] < 0.1
    assert log.losses[40] < 0.5 * log.losses[1]
    assert progress.best_error is not None
    assert progress.best_error <= log.metrics[10]["validation/eer"]
    assert (progress.step, progress.epoch, progress.batch) == (40, 5, 5)
    assert "validation EER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("interrupted_at", "decay", "frame_weight"),
    [(5, 0.0, 0.0), (15, 0.0, 0.0), (5, 0.9, 0.0), (15, 0.9, 0.0), (5, 0.9, 0.7)],
)
def test_a_resumed_training_ends_with_the_same_bits(
    interrupted_at: int, decay: float, frame_weight: float
) -> None:
    config = toy_config(ema=EmaConfig(decay), loss=LossConfig(frame_weight=frame_weight))
    batches = toy_frame_batches if frame_weight else toy_batches
    uninterrupted, log, end = run(config, batches, validation_batches=toy_validation)
    resumed, later, progress = run(
        config, batches, validation_batches=toy_validation, state=log.states[interrupted_at]
    )
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())
    assert_same_weights(log.states[20]["average"], later.states[20]["average"])
    assert bool(log.states[20]["average"]) == bool(decay)
    assert progress == end
    assert later.losses == {step: loss for step, loss in log.losses.items() if step > interrupted_at}


def test_without_the_generator_the_resumed_bits_differ() -> None:
    uninterrupted, log, _ = run(toy_config())
    state = log.states[5]
    state["rng"] = [{"cpu": torch.get_rng_state()}]
    resumed, _, _ = run(toy_config(), state=state)
    with pytest.raises(AssertionError):
        assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())


def test_a_checkpoint_can_be_saved_and_loaded_without_pickled_code(tmp_path: Any) -> None:
    uninterrupted, log, _ = run(toy_config(10))
    torch.save(log.states[5], tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, _, _ = run(toy_config(10), state=state)
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())


def test_accumulating_two_half_batches_equals_one_full_batch() -> None:
    def halves(epoch: int, first: int) -> Iterator[ToyBatch]:
        for step in range(first, 2 * NUM_BATCHES):
            batch, rows = toy_batch(epoch, step // 2), slice(4 * (step % 2), 4 * (step % 2) + 4)
            yield ToyBatch(batch.waveform[rows], batch.num_samples[rows], batch.label[rows], batch.uid[rows])

    torch.set_num_threads(1)
    results = []
    for batches, num_accumulated in ((toy_batches, 1), (halves, 2)):
        torch.manual_seed(0)
        detector = Detector(
            DetectorConfig(replace(VARIANTS["tiny"], num_layers=1))
        )  # dropout masks would differ
        train(detector, batches, toy_config(3, num_accumulated=num_accumulated), Log())
        results.append(detector.state_dict())
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=2e-4, rtol=0)


def poisoned(steps: set[int]) -> Callable[[int, int], Iterator[ToyBatch]]:
    def batches(epoch: int, first: int) -> Iterator[ToyBatch]:
        for step in range(first, NUM_BATCHES):
            batch = toy_batch(epoch, step)
            if step in steps and epoch == 0:
                batch.waveform[2, 3] = math.nan
            yield batch

    return batches


def test_a_step_that_is_not_finite_is_skipped_and_counted() -> None:
    detector, log, progress = run(toy_config(6), poisoned({2, 4}))
    assert progress.num_skipped == 2
    assert progress.skipped_uids[0] == "0-2-0"
    assert all(torch.isfinite(weight).all() for weight in detector.state_dict().values())
    assert set(log.losses) == {1, 2, 4, 6}
    only_bad, log, progress = run(toy_config(3, ema=EmaConfig(0.9)), poisoned({0, 1, 2}))
    assert_same_weights(only_bad.state_dict(), toy_detector().state_dict())
    assert_same_weights(log.states[3]["average"], toy_detector().state_dict())
    assert progress.num_updates == 0


def test_too_many_skipped_steps_are_an_error_that_names_their_utterances() -> None:
    with pytest.raises(NonFiniteError, match=r"step 3: .*0-1-5.*0-2-0"):
        run(toy_config(7, max_skipped_steps=1), poisoned({1, 2}))


def test_the_number_of_skipped_steps_is_kept_in_a_checkpoint() -> None:
    _, log, _ = run(toy_config(7, max_skipped_steps=1), poisoned({1}))
    with pytest.raises(NonFiniteError, match="step 6"):
        run(toy_config(7, max_skipped_steps=1), poisoned({5}), state=log.states[5])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_float32_weights_and_still_learns(precision: str) -> None:
    detector, log, progress = run(toy_config(30, precision=precision), validation_batches=toy_validation)
    assert {weight.dtype for weight in detector.state_dict().values()} == {torch.float32}
    assert log.metrics[30]["validation/eer"] < 0.2
    assert progress.num_skipped == 0


def test_only_gradients_above_the_norm_are_scaled_down() -> None:
    def weights(clip_norm: float) -> dict[str, Tensor]:
        # With a large epsilon, the size of a gradient affects Adam's update.
        optimiser = replace(toy_config(2).optimiser, clip_norm=clip_norm, epsilon=1.0, weight_decay=0.0)
        return run(toy_config(2, optimiser=optimiser))[0].state_dict()

    assert_same_weights(weights(100.0), weights(1000.0))
    start = toy_detector().state_dict()
    moved = {
        norm: math.sqrt(
            sum(float((weight - start[name]).square().sum()) for name, weight in weights(norm).items())
        )
        for norm in (100.0, 0.01)
    }
    assert 0 < moved[0.01] < 0.1 * moved[100.0]


def test_class_weights_change_the_loss() -> None:
    _, plain, _ = run(toy_config(1))
    _, weighted, _ = run(toy_config(1, spoof_weight=9.0))
    assert plain.losses[1] != weighted.losses[1]


def test_training_data_without_a_batch_are_rejected() -> None:
    with pytest.raises(InputError, match="too few for one batch per worker"):
        run(toy_config(), lambda *_: iter(()))


def test_validation_needs_both_classes() -> None:
    batch = toy_batch(99, 0)
    one_class = ToyBatch(batch.waveform[::2], batch.num_samples[::2], batch.label[::2], batch.uid[::2])
    with pytest.raises(InputError, match="both"):
        run(toy_config(1), validation_batches=lambda: iter([one_class]))


def test_validation_reports_an_eer_for_each_corpus_and_two_means() -> None:
    group_of = {
        uid: Group(corpus, group.attack)
        for uid, group in TOY_GROUPS.items()
        if (corpus := {"0": "a", "1": "b"}.get(uid[3], "only_spoof" if group.attack else "b"))
    }
    _, log, _ = run(toy_config(10), validation_batches=toy_validation, group_of=group_of)
    metrics, rates = log.metrics[10], log.validations[10].error_rates
    assert {name for name in metrics if name.startswith("validation/")} == {
        "validation/eer",
        "validation/mean_eer/corpora",
        "validation/mean_eer/attacks",
        "validation/eer/a",
        "validation/eer/b",
    }
    by_corpus = [metrics["validation/eer/a"], metrics["validation/eer/b"]]
    assert metrics["validation/mean_eer/corpora"] == pytest.approx(sum(by_corpus) / 2)
    assert rates.attacks.keys() == {Group(corpus, "noise") for corpus in ("a", "b", "only_spoof")}
    assert metrics["validation/mean_eer/attacks"] == pytest.approx(sum(rates.attacks.values()) / 3)


def test_the_weights_and_their_average_are_both_validated_and_the_better_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def flipped_later(epoch: int, first: int) -> Iterator[ToyBatch]:
        """Flip the labels from the second epoch on, so that the average is better for a while."""
        for step in range(first, NUM_BATCHES):
            batch = toy_batch(epoch, step)
            yield replace(batch, label=1 - batch.label) if epoch else batch

    config = toy_config(12, validate_every=4)
    config = replace(config, optimiser=replace(config.optimiser, final_fraction=1.0))
    plain, _, _ = run(config, flipped_later, validation_batches=toy_validation)
    averaged, log, progress = run(
        replace(config, ema=EmaConfig(0.8)), flipped_later, validation_batches=toy_validation
    )
    assert_same_weights(plain.state_dict(), averaged.state_dict())
    lines = [line for line in capsys.readouterr().out.splitlines() if "; EMA " in line]
    assert len(lines) == 3
    for step, validation in log.validations.items():
        raw, ema = (log.metrics[step][f"validation/{weights}eer"] for weights in ("", "ema/"))
        assert validation.weights == ("ema" if ema < raw else "raw")
        assert validation.error_rates.pooled == min(raw, ema)
        detector = toy_detector()
        average = log.states[step]["average"] if validation.weights == "ema" else {}
        detector.load_state_dict(log.states[step]["detector"] | average)
        again = validate(detector, toy_validation(), detector.device, TOY_GROUPS)
        assert again.error_rates == validation.error_rates
    assert {validation.weights for validation in log.validations.values()} == {"raw", "ema"}
    best = log.validations[progress.best_step]
    assert (progress.best_error, progress.best_weights) == (best.error_rates.pooled, best.weights)


def test_reports_include_speed_padding_and_waiting() -> None:
    _, log, _ = run(toy_config(5))
    metrics = log.metrics[5]
    assert metrics["speed/audio_seconds_per_s"] > 0
    assert 0.0 < metrics["speed/padding_share"] < 0.25
    assert 0.0 <= metrics["speed/loader_wait_share"] < 1.0
    assert metrics["train/learning_rate"] == pytest.approx(2e-5)
