"""Score validation batches during training and measure their error rates over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from pipeline.detector.batch import Batch
from pipeline.detector.config import Precision, Weights
from pipeline.detector.precision import autocast
from pipeline.detector.variants import MIN_NUM_SAMPLES
from pipeline.errors import InputError
from pipeline.metrics.eer import eer_against
from pipeline.metrics.grouped import METRIC_NAMES, ErrorRates, Group, GroupedScores, Selection, group_scores

ByLabel = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Scores of spoofed and of bona fide frames."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of utterances, by uid."""

    utterances: dict[str, float] = field(default_factory=dict)
    frames: dict[str, ByLabel] = field(default_factory=dict)
    """Scores of labelled frames; only of utterances that have some."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of one validation; error rates are fractions."""

    weights: Weights
    error_rates: ErrorRates
    num_utterances: int
    scores: GroupedScores

    def error(self, select_by: Selection) -> float:
        """The error rate that selects.

        Raises:
            InputError: what was validated does not have it.
        """
        rate = self.error_rates.of(select_by)
        if rate is None:
            raise InputError(
                f"--training.select-by {select_by}: the validation data have no such error rate; select by pooled"
            )
        return rate

    def metrics(self) -> dict[str, float]:
        """Return the error rates by name: `validation/eer`, `validation/mean_eer/corpora`, `validation/eer/CORPUS` …"""
        prefix = "validation/ema" if self.weights == "ema" else "validation"
        rates = {METRIC_NAMES[selection]: rate for selection, rate in self.error_rates.by_selection.items()}
        rates |= {f"eer/{corpus}": eer for corpus, eer in self.error_rates.corpora.items()}
        return {f"{prefix}/{name}": rate for name, rate in rates.items()}


def validate(
    detector: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    group_of: Mapping[str, Group],
    *,
    weights: Weights = "raw",
    precision: Precision = "fp32",
) -> Validation:
    """Score the batches of all ranks and measure the error rates; every rank gets the same result.

    An utterance scored by several ranks counts once. Nothing is drawn from torch's generator. The detector computes
    in float32, except that a sharded one computes in the precision in which its layers are gathered.

    Raises:
        InputError: there are no bona fide or no spoof utterances.
    """
    scored = _union(score_batches(detector, batches, device, precision))
    # Scores are sorted within their group, so the result does not depend on the order in which ranks finish.
    groups = [group_of[uid] for uid in scored.utterances]
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    scores = group_scores(
        list(numbers),
        np.fromiter((numbers[group] for group in groups), np.int64, len(groups)),
        np.fromiter(scored.utterances.values(), np.float64, len(groups)),
    )
    if not (scores.all.bonafide.size and scores.all.spoof.size):
        raise InputError("the validation data have no bona fide or no spoof utterances; an EER needs both")
    error_rates = replace(scores.error_rates, frames=_frame_eer(scored.frames))
    return Validation(weights, error_rates, len(groups), scores)


def score_batches(
    detector: nn.Module, batches: Iterable[Batch], device: torch.device, precision: Precision = "fp32"
) -> Scored:
    """Score this rank's batches, and their frames if some are labelled: logit of bona fide − logit of spoof."""
    scored = Scored()
    was_training = detector.training
    is_sharded = isinstance(detector, FSDPModule)
    detector.eval()
    # A loader draws its base seed from torch's generator; the training must not see that draw.
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        autocast(device, precision if is_sharded else "fp32"),
    ):
        for batch in _in_lockstep(batches, device) if is_sharded else batches:
            if batch is None:
                detector(torch.zeros(1, MIN_NUM_SAMPLES, device=device))
                continue
            label_BF = batch.frame_label
            output = detector(
                batch.waveform.to(device), batch.num_samples, with_frame_logits=label_BF is not None
            )
            scores_B = _score(output.logits).tolist()
            scored.utterances.update(zip(batch.uid, scores_B, strict=True))
            if label_BF is not None:
                frames = zip(batch.uid, _score(output.frame_logits).cpu(), label_BF.cpu(), strict=True)
                for uid, scores_F, label_F in frames:
                    if (label_F >= 0).any():
                        spoof, bonafide = (scores_F[label_F == label].float().numpy() for label in (0, 1))
                        scored.frames[uid] = spoof, bonafide
    if isinstance(detector, FSDPModule):
        detector.reshard()  # else the root's weights stay gathered until a backward pass; a checkpoint may come first
    detector.train(was_training)
    return scored


def _in_lockstep(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch | None]:
    """Yield this rank's batches, then None while another rank has some: layers are gathered by all ranks together."""
    iterator = iter(batches)
    while True:
        batch = next(iterator, None)
        is_any_left = torch.tensor(float(batch is not None), device=device)
        dist.all_reduce(is_any_left, dist.ReduceOp.MAX)
        if not is_any_left:
            return
        yield batch


def _score(logits: Tensor) -> Tensor:
    """Subtract the logit of spoof from that of bona fide; logits are [..., 2]."""
    return logits[..., 1].double() - logits[..., 0].double()


def _frame_eer(frames: Mapping[str, ByLabel]) -> float | None:
    spoof, bonafide = (
        np.sort(np.concatenate([np.empty(0), *(scores[label] for scores in frames.values())]))
        for label in (0, 1)
    )
    return eer_against(bonafide, spoof) if spoof.size and bonafide.size else None


def _union(scored: Scored) -> Scored:
    if not dist.is_initialized():
        return scored
    parts = [Scored() for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, scored)
    union = Scored()
    for part in parts:
        union.utterances.update(part.utterances)
        union.frames.update(part.frames)
    return union
