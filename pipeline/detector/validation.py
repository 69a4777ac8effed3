"""Score validation batches during training and measure the EER over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from pipeline.detector.batch import Batch
from pipeline.detector.config import Precision
from pipeline.detector.precision import autocast
from pipeline.detector.variants import MIN_NUM_SAMPLES
from pipeline.errors import InputError
from pipeline.metrics import ClassScores, equal_error_rate

Scored = dict[str, tuple[float, int]]
"""uid → (score, label)"""


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of one validation; error rates are fractions."""

    eer: float
    num_utterances: int
    eer_by_corpus: Mapping[str, float]
    """Corpora with utterances of both classes only."""
    scores: ClassScores
    """Scores of all utterances, for a DET curve."""
    scores_by_corpus: Mapping[str, ClassScores]
    """Scores of each corpus; empty if `validate` was called without `corpus_of`."""

    def metrics(self) -> dict[str, float]:
        """Return the error rates by name: `validation/eer`, `validation/eer/<corpus>`."""
        by_corpus = {f"validation/eer/{corpus}": eer for corpus, eer in self.eer_by_corpus.items()}
        return {"validation/eer": self.eer, **by_corpus}


def validate(
    detector: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    corpus_of: Mapping[str, str] | None = None,
    *,
    precision: Precision = "fp32",
) -> Validation:
    """Score the batches of all ranks and measure the EER; every rank gets the same result.

    An utterance scored by several ranks counts once. Nothing is drawn from torch's generator. The detector computes
    in float32, except that a sharded one computes in the precision in which its layers are gathered.

    Raises:
        InputError: there are no bona fide or no spoof utterances.
    """
    scored = _union(score_batches(detector, batches, device, precision))
    uids = sorted(scored)  # the result must not depend on the order in which ranks finish
    values = np.array([scored[uid][0] for uid in uids])
    labels = np.array([scored[uid][1] for uid in uids])
    scores = ClassScores(values[labels == 1], values[labels == 0])
    if not (scores.bonafide.size and scores.spoof.size):
        raise InputError("the validation data have no bona fide or no spoof utterances; an EER needs both")
    by_corpus: dict[str, ClassScores] = {}
    if corpus_of is not None:
        corpora = np.array([corpus_of[uid] for uid in uids])
        for corpus in sorted(set(corpora.tolist())):
            is_member = corpora == corpus
            by_corpus[corpus] = ClassScores(
                values[is_member & (labels == 1)], values[is_member & (labels == 0)]
            )
    eers = {name: _eer(part) for name, part in by_corpus.items() if part.bonafide.size and part.spoof.size}
    return Validation(_eer(scores), len(uids), eers, scores, by_corpus)


def score_batches(
    detector: nn.Module, batches: Iterable[Batch], device: torch.device, precision: Precision = "fp32"
) -> Scored:
    """Score this rank's batches: logit of bona fide − logit of spoof."""
    scored: Scored = {}
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
            logits_B2 = detector(batch.waveform.to(device), batch.num_samples).logits
            scores_B = (logits_B2[:, 1].double() - logits_B2[:, 0].double()).tolist()
            scored |= dict(zip(batch.uid, zip(scores_B, batch.label.tolist(), strict=True), strict=True))
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


def _union(scored: Scored) -> Scored:
    if not dist.is_initialized():
        return scored
    parts: list[Scored] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, scored)
    union: Scored = {}
    for part in parts:
        union |= part
    return union


def _eer(scores: ClassScores) -> float:
    return equal_error_rate(scores.bonafide, scores.spoof).eer
