"""The training loop, with a tiny detector and utterances of a tenth of a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.detector.config import OptimiserConfig, TrainingConfig, learning_rate
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig, normalise
from pipeline.detector.training import NonFiniteError, Progress, State, train
from pipeline.errors import InputError

PAPER = OptimiserConfig()
TOY = replace(VARIANTS["tiny"], num_layers=1, dropout=0.1, input_dropout=0.1)
NUM_BATCHES = 7


@dataclass(frozen=True)
class ToyBatch:
    waveform: Tensor
    num_samples: Tensor
    label: Tensor
    uid: list[str]


def toy_batch(epoch: int, step: int) -> ToyBatch:
    """Make noise, with a tone in bona fide utterances; like a real batch it depends only on its position."""
    generator = torch.Generator().manual_seed(1000 * epoch + step)
    label = torch.arange(8) % 2
    num_samples = torch.randint(1200, 1600, (8,), generator=generator)
    tone = torch.sin(torch.arange(1600) * 0.9)
    waveform = torch.randn(8, 1600, generator=generator) + 2 * label[:, None] * tone
    waveform = normalise(waveform * (torch.arange(1600) < num_samples[:, None]), num_samples)
    return ToyBatch(waveform, num_samples, label, [f"{epoch}-{step}-{row}" for row in range(8)])


def toy_batches(epoch: int, first: int) -> Iterator[ToyBatch]:
    torch.rand(1)  # a loader may draw from torch's generator when it starts
    for step in range(first, NUM_BATCHES):
        yield toy_batch(epoch, step)


def toy_validation() -> Iterator[ToyBatch]:
    for step in range(4):
        yield toy_batch(99, step)


def toy_detector() -> Detector:
    torch.manual_seed(0)
    return Detector(DetectorConfig(TOY))


def toy_config(num_steps: int = 20, **changes: Any) -> TrainingConfig:
    optimiser = OptimiserConfig(learning_rate=2e-3, num_warmup_steps=min(3, num_steps), num_steps=num_steps)
    config = TrainingConfig(
        optimiser, precision="fp32", validate_every=10, checkpoint_every=5, log_every=1, seed=7
    )
    return replace(config, **changes)


class Log:
    """Keeps every report, and copies checkpoints as writing them would."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.metrics: dict[int, Mapping[str, float]] = {}
        self.states: dict[int, State] = {}

    def __call__(self, progress: Progress, metrics: Mapping[str, float], state: State | None) -> None:
        self.metrics[progress.step] = metrics
        if "loss" in metrics:
            self.losses[progress.step] = metrics["loss"]
        if state is not None:
            self.states[progress.step] = copy(state)


def copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copy(item) for item in value)
    return value


def run(
    config: TrainingConfig, batches: Callable[[int, int], Iterator[ToyBatch]] = toy_batches, **arguments: Any
) -> tuple[Detector, Log, Progress]:
    torch.set_num_threads(1)
    detector, log = toy_detector(), Log()
    progress = train(detector, batches, config, log, **arguments)
    return detector, log, progress


def assert_same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


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
    with pytest.raises(InputError, match="num_warmup_steps is 11"):
        OptimiserConfig(num_warmup_steps=11, num_steps=10)
    with pytest.raises(InputError, match="log_every"):
        TrainingConfig(log_every=0)


def test_training_lowers_the_loss_and_the_eer(capsys: pytest.CaptureFixture[str]) -> None:
    _, log, progress = run(toy_config(40), validation=toy_validation)
    assert log.metrics[40]["validation_eer"] < 0.1
    assert log.losses[40] < 0.5 * log.losses[1]
    assert progress.best_eer is not None
    assert progress.best_eer <= log.metrics[10]["validation_eer"]
    assert (progress.step, progress.epoch, progress.batch) == (40, 5, 5)
    assert "validation EER" in capsys.readouterr().out


@pytest.mark.parametrize("interrupted_at", [5, 15])
def test_a_resumed_training_ends_with_the_same_bits(interrupted_at: int) -> None:
    uninterrupted, log, _ = run(toy_config(), validation=toy_validation)
    resumed, later, progress = run(toy_config(), validation=toy_validation, state=log.states[interrupted_at])
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())
    assert progress.step == 20
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
    only_bad, _, _ = run(toy_config(3), poisoned({0, 1, 2}))
    assert_same_weights(only_bad.state_dict(), toy_detector().state_dict())


def test_too_many_skipped_steps_are_an_error_that_names_their_utterances() -> None:
    with pytest.raises(NonFiniteError, match=r"step 3: .*0-1-5.*0-2-0"):
        run(toy_config(7, max_skipped_steps=1), poisoned({1, 2}))


def test_the_number_of_skipped_steps_is_kept_in_a_checkpoint() -> None:
    _, log, _ = run(toy_config(7, max_skipped_steps=1), poisoned({1}))
    with pytest.raises(NonFiniteError, match="step 6"):
        run(toy_config(7, max_skipped_steps=1), poisoned({5}), state=log.states[5])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_float32_weights_and_still_learns(precision: str) -> None:
    detector, log, progress = run(toy_config(30, precision=precision), validation=toy_validation)
    assert {weight.dtype for weight in detector.state_dict().values()} == {torch.float32}
    assert log.metrics[30]["validation_eer"] < 0.2
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
    with pytest.raises(InputError, match="no batch"):
        run(toy_config(), lambda *_: iter(()))


def test_validation_needs_both_classes() -> None:
    batch = toy_batch(0, 0)
    one_class = ToyBatch(batch.waveform[::2], batch.num_samples[::2], batch.label[::2], batch.uid[::2])
    with pytest.raises(InputError, match="both"):
        run(toy_config(1), validation=lambda: iter([one_class]))


def test_validation_reports_an_eer_for_each_corpus() -> None:
    corpus_of = {
        f"99-{step}-{row}": ("a", "b", "only_spoof")[min(step, 2)] for step in range(4) for row in range(8)
    }
    corpus_of |= {f"99-{step}-{row}": "b" for step in (2, 3) for row in (1, 3, 5, 7)}
    _, log, _ = run(toy_config(10), validation=toy_validation, corpus_of=corpus_of)
    assert {name for name in log.metrics[10] if "/" in name} == {"validation_eer/a", "validation_eer/b"}


def test_reports_include_speed_padding_and_waiting() -> None:
    _, log, _ = run(toy_config(5))
    metrics = log.metrics[5]
    assert metrics["audio_seconds_per_s"] > 0
    assert 0.0 < metrics["padding_share"] < 0.25
    assert 0.0 <= metrics["loader_wait_share"] < 1.0
    assert metrics["learning_rate"] == pytest.approx(2e-5)
