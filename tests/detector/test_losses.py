"""The losses: against the formulas of their papers, and in the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pipeline.detector.checkpoint import load_detector, save_detector
from pipeline.detector.config import LossConfig, LossName, TrainingConfig
from pipeline.detector.losses import CrossEntropy, OneClassSoftmax, SupervisedContrastive, make_loss
from pipeline.errors import InputError
from tests.detector.toys import (
    ToyBatch,
    assert_same_weights,
    run,
    toy_batch,
    toy_config,
    toy_detector,
    toy_validation,
)

LABEL = torch.tensor([0, 1, 1, 0, 1])
LOSSES: tuple[LossName, ...] = ("cross_entropy", "oc_softmax", "supervised_contrastive", "expected_accuracy")


def settings(name: LossName, **changes: Any) -> TrainingConfig:
    return toy_config(loss=LossConfig(name=name), **changes)


def embeddings(num: int = 5) -> Tensor:
    return torch.randn(num, 64, generator=torch.Generator().manual_seed(5)).requires_grad_()


def test_one_class_softmax_matches_the_paper() -> None:
    loss, embedding = OneClassSoftmax(settings("oc_softmax"), toy_detector().head), embeddings()
    expected = 0.0
    for row, label in zip(embedding.detach(), LABEL.tolist(), strict=True):
        cosine = float(F.cosine_similarity(row, loss.centre.detach(), dim=0))
        sign, margin = (1, 0.9) if label else (-1, 0.2)
        expected += math.log1p(math.exp(20 * (margin - cosine) * sign)) / len(LABEL)
    value = float(loss.of_embedding(embedding, LABEL).detach())
    assert value == pytest.approx(expected, rel=1e-5)


def test_one_class_softmax_pulls_bona_fide_speech_to_the_centre_and_pushes_spoofs_away() -> None:
    loss, embedding = OneClassSoftmax(settings("oc_softmax"), toy_detector().head), embeddings()
    torch.autograd.backward(loss.of_embedding(embedding, LABEL))
    assert embedding.grad is not None
    moved = F.cosine_similarity(embedding - 0.1 * embedding.grad, loss.centre[None])
    is_nearer = moved > F.cosine_similarity(embedding, loss.centre[None])
    assert torch.equal(is_nearer, LABEL == 1)


def test_one_class_softmax_ignores_the_norm_of_an_embedding() -> None:
    loss = OneClassSoftmax(settings("oc_softmax"), toy_detector().head)
    short, long = (loss.of_embedding(embeddings() * length, LABEL) for length in (0.1, 10.0))
    torch.testing.assert_close(short, long)


def test_class_weights_apply_to_both_parts_of_one_class_softmax() -> None:
    head, embedding = toy_detector().head, embeddings()
    only_bonafide = OneClassSoftmax(settings("oc_softmax", spoof_weight=1e-9), head)
    alone = OneClassSoftmax(settings("oc_softmax"), head)
    is_bonafide = LABEL == 1
    torch.testing.assert_close(
        only_bonafide(head(embedding), embedding, LABEL),
        alone(head(embedding)[is_bonafide], embedding[is_bonafide], LABEL[is_bonafide]) * 3 / 5,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_multiply_the_gradient_in_a_batch_of_one_class(name: LossName) -> None:
    def slopes(**weights: float) -> Tensor:
        detector = toy_detector()
        logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = make_loss(settings(name, **weights), detector)
        value = loss(logits, embeddings(4), torch.ones(4, dtype=torch.long), torch.zeros(4, 2))
        torch.autograd.backward(value)
        assert logits.grad is not None
        return logits.grad

    torch.testing.assert_close(slopes(bonafide_weight=3.0, spoof_weight=0.5), 3 * slopes())


def test_class_weights_move_the_odds_by_their_ratio_also_in_small_batches() -> None:
    """The best score of utterances that cannot be told apart, half of each class, in batches of four."""
    loss = CrossEntropy(settings("cross_entropy", bonafide_weight=1.0, spoof_weight=9.0))
    score = torch.tensor(math.log(1 / 9), requires_grad=True)
    for num_bonafide in range(5):
        label = (torch.arange(4) < num_bonafide).long()
        logits = torch.stack([torch.zeros(4), score.expand(4)], dim=1)
        torch.autograd.backward(math.comb(4, num_bonafide) / 16 * loss(logits, torch.zeros(4, 1), label))
    assert score.grad is not None
    assert float(score.grad) == pytest.approx(0.0, abs=1e-6)


def test_a_head_probe_sends_no_gradient_to_the_front_end() -> None:
    detector, batch = toy_detector(), toy_batch(0, 0)
    detector.is_head_probe = True
    output = detector(batch.waveform, batch.num_samples)
    F.cross_entropy(output.logits, batch.label).backward()
    assert all(weight.grad is not None for weight in detector.head.parameters())
    assert all(weight.grad is None for weight in detector.m_ssl.parameters())
    assert output.embedding.requires_grad


def test_supervised_contrastive_loss_matches_the_paper() -> None:
    loss, embedding = SupervisedContrastive(settings("supervised_contrastive")), embeddings()
    unit = F.normalize(embedding.detach(), dim=1).double()
    anchors = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        total = sum(math.exp(float(unit[i] @ unit[j]) / 0.1) for j in others)
        same = [j for j in others if LABEL[j] == LABEL[i]]
        shares = [math.exp(float(unit[i] @ unit[j]) / 0.1) / total for j in same]
        anchors.append(-sum(map(math.log, shares)) / len(same))
    value = float(loss.of_embedding(embedding, LABEL).detach())
    assert value == pytest.approx(sum(anchors) / 5, rel=1e-5)


def test_an_utterance_alone_in_its_class_has_a_finite_gradient() -> None:
    loss, embedding = SupervisedContrastive(settings("supervised_contrastive")), embeddings()
    label = torch.tensor([0, 1, 1, 1, 1])
    value = loss.of_embedding(embedding, label)
    torch.autograd.backward(value)
    assert torch.isfinite(value)
    assert embedding.grad is not None
    assert torch.isfinite(embedding.grad).all()


@pytest.mark.parametrize("num", [1, 2])
def test_a_batch_without_pairs_adds_no_loss(num: int) -> None:
    loss, embedding = SupervisedContrastive(settings("supervised_contrastive")), embeddings(num)
    value = loss.of_embedding(embedding, torch.arange(num))
    torch.autograd.backward(value)
    assert value == 0.0
    assert embedding.grad is not None
    assert torch.all(embedding.grad == 0.0)


def test_cross_entropy_does_not_use_embeddings() -> None:
    logits = torch.randn(5, 2)
    loss = CrossEntropy(settings("cross_entropy", spoof_weight=3.0))
    expected = F.cross_entropy(logits, LABEL, torch.tensor([3.0, 1.0]), reduction="sum") / 5
    torch.testing.assert_close(loss(logits, embeddings(), LABEL), expected)
    assert not list(loss.parameters())


def test_smoothed_labels_spread_a_share_over_both_classes() -> None:
    logits = torch.randn(5, 2)
    loss = CrossEntropy(toy_config(loss=LossConfig(label_smoothing=0.2), spoof_weight=3.0))
    target = F.one_hot(LABEL, 2) * 0.8 + 0.1
    loss_per_utterance = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    expected = (torch.tensor([3.0, 1.0])[LABEL] * loss_per_utterance).mean()
    torch.testing.assert_close(loss(logits, embeddings(), LABEL), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_with_every_loss_a_higher_score_means_bona_fide(name: LossName, tmp_path: Any) -> None:
    detector, log, _ = run(toy_config(40, loss=LossConfig(name=name)), validation_batches=toy_validation)
    assert log.metrics[40]["validation/eer"] < 0.15
    save_detector(detector, tmp_path / "detector.safetensors", {})
    loaded = load_detector(tmp_path / "detector.safetensors").detector
    assert loaded.state_dict().keys() == toy_detector().state_dict().keys()
    assert_same_weights(loaded.state_dict(), detector.state_dict())


@pytest.mark.parametrize("name", LOSSES[1:])
def test_a_training_with_any_loss_resumes_bit_for_bit(name: LossName) -> None:
    uninterrupted, log, _ = run(settings(name), validation_batches=toy_validation)
    resumed, later, _ = run(settings(name), validation_batches=toy_validation, state=log.states[5])
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())
    assert later.losses == {step: loss for step, loss in log.losses.items() if step > 5}


def test_the_centre_is_trained_and_saved() -> None:
    _, log, _ = run(settings("oc_softmax"))
    start = make_loss(settings("oc_softmax"), toy_detector()).state_dict()
    assert start.keys() == log.states[5]["loss"].keys() == {"centre"}
    assert not torch.equal(start["centre"], log.states[5]["loss"]["centre"])
    assert set(log.states[5]["optimiser"]["loss.centre"]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_checkpoint_of_a_different_loss_is_rejected() -> None:
    _, log, _ = run(settings("oc_softmax"))
    with pytest.raises(InputError, match="of a different loss; tensors that differ: centre"):
        run(settings("cross_entropy"), state=log.states[5])


def test_impossible_margins_are_rejected() -> None:
    with pytest.raises(InputError, match=r"--spoof-margin 0\.95 is above --bonafide-margin 0\.9"):
        LossConfig("oc_softmax", spoof_margin=0.95)
    with pytest.raises(InputError, match=r"--temperature 0\.0: expected numbers above 0"):
        LossConfig("supervised_contrastive", temperature=0.0)


def test_a_setting_of_another_loss_is_refused() -> None:
    with pytest.raises(InputError, match=r"--scale has no effect on cross_entropy; .* --name oc_softmax"):
        LossConfig(scale=30.0)
    with pytest.raises(
        InputError, match=r"--groups has no effect on oc_softmax; .* --name expected_accuracy"
    ):
        LossConfig("oc_softmax", groups="utterance")
    with pytest.raises(
        InputError, match=r"--label-smoothing has no effect on expected_accuracy; .* cross_ent"
    ):
        LossConfig("expected_accuracy", label_smoothing=0.1)


@pytest.mark.parametrize(("name", "num_lines"), [("supervised_contrastive", 1), ("cross_entropy", 0)])
def test_batches_of_one_class_are_counted_and_told_once(name: LossName, num_lines: int) -> None:
    def one_class_in_two(epoch: int, first: int) -> Iterator[ToyBatch]:
        for step in range(first, 4):
            batch = toy_batch(epoch, step)
            yield replace(batch, label=batch.label * (step % 2))

    lines: list[str] = []
    _, log, _ = run(settings(name, log_every=4), one_class_in_two, print_now=lines.append)
    assert log.metrics[4]["train/one_class_share"] == 0.5
    told = [line for line in lines if "one class only" in line]
    assert len(told) == num_lines
    assert all(line.startswith("step 1 ") and "--batch.max-seconds" in line for line in told)
