"""Training losses, with or without weights of their own.

Every loss also trains the head by cross-entropy, and scores always come from the head: a detector is saved and
scored the same way whatever loss trained it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.config import LossConfig, TrainingConfig
from pipeline.detector.heads import Head
from pipeline.detector.network import Detector

# B: utterances of one batch on one rank, E: channels of the embedding, 2: the classes (spoof, bonafide).


class Loss(nn.Module):
    """Logits, embeddings and labels of one batch on one rank → a float32 scalar."""

    is_head_probe = False
    """Whether the gradient of the logits stops at the embedding, so that cross-entropy trains the head alone."""

    weight_2: Tensor

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        weight_2 = torch.tensor([config.spoof_weight, config.bonafide_weight])
        self.register_buffer("weight_2", weight_2, persistent=False)

    def forward(self, logits_B2: Tensor, embedding_BE: Tensor, label_B: Tensor) -> Tensor:
        """Sum the class-weighted cross-entropy of the logits and the loss of the embeddings."""
        return F.cross_entropy(logits_B2.float(), label_B, self.weight_2) + self.of_embedding(
            embedding_BE.float(), label_B
        )

    def of_embedding(self, embedding_BE: Tensor, label_B: Tensor) -> Tensor | float:
        """Compute the part of the loss that depends on the embeddings [B, E] directly."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross-entropy of the two logits alone, as in AntiDeepfake (arXiv 2506.21090)."""

    def of_embedding(self, embedding_BE: Tensor, label_B: Tensor) -> float:  # noqa: ARG002
        """Return 0: cross-entropy does not use the embedding."""
        return 0.0


class OneClassSoftmax(Loss):
    """One-class softmax (Zhang, Jiang and Duan, 2021): bona fide speech near a centre, spoofed speech far away.

    Distance is the cosine between an embedding and the learnt centre. A linear head cannot compute that cosine,
    because it cannot divide by the norm of the embedding. So the one-class loss alone trains the front end, and
    cross-entropy trains the head on embeddings that it does not change. The centre starts in the direction in
    which the score of the head rises.
    """

    is_head_probe = True

    def __init__(self, config: TrainingConfig, head: Head) -> None:
        super().__init__(config)
        self.config: LossConfig = config.loss
        self.centre = nn.Parameter(F.normalize(head.direction(), dim=0))

    def of_embedding(self, embedding_BE: Tensor, label_B: Tensor) -> Tensor:
        """Average the soft violation of the margins, weighted by class."""
        cosine_B = F.normalize(embedding_BE, dim=1) @ F.normalize(self.centre, dim=0)
        deficit_B = self.config.bonafide_margin - cosine_B
        excess_B = cosine_B - self.config.spoof_margin
        loss_B = F.softplus(self.config.scale * torch.where(label_B == 1, deficit_B, excess_B))
        weight_B = self.weight_2[label_B]
        return (weight_B * loss_B).sum() / weight_B.sum()


class SupervisedContrastive(Loss):
    """Supervised contrastive loss (Khosla et al., 2020) added to cross-entropy.

    Each embedding is pulled towards those of its class and pushed away from all others in the batch of its rank;
    embeddings are not gathered across ranks. Class weights do not apply, and an utterance that is the only one
    of its class in the batch is ignored.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__(config)
        self.config: LossConfig = config.loss

    def of_embedding(self, embedding_BE: Tensor, label_B: Tensor) -> Tensor:
        """Average over utterances that share their class with another, times `contrastive_weight`."""
        unit_BE = F.normalize(embedding_BE, dim=1)
        is_self_BB = torch.eye(len(label_B), dtype=torch.bool, device=label_B.device)
        similarity_BB = unit_BE @ unit_BE.T / self.config.temperature
        # With −∞ the gradient of a batch of one utterance would be NaN.
        similarity_BB = similarity_BB.masked_fill(is_self_BB, torch.finfo(torch.float32).min)
        log_share_BB = similarity_BB - similarity_BB.logsumexp(dim=1, keepdim=True)
        is_same_BB = (label_B[:, None] == label_B) & ~is_self_BB
        num_same_B = is_same_BB.sum(dim=1)
        mean_B = log_share_BB.where(is_same_BB, 0.0).sum(dim=1) / num_same_B.clamp(min=1)
        num_paired = (num_same_B > 0).sum().clamp(min=1)
        return -self.config.contrastive_weight * mean_B.sum() / num_paired


def make_loss(config: TrainingConfig, detector: Detector) -> Loss:
    """Build the loss of a training on the device of its detector.

    Raises:
        InputError: the head of the detector does not support this loss.
    """
    match config.loss.name:
        case "cross_entropy":
            loss: Loss = CrossEntropy(config)
        case "oc_softmax":
            loss = OneClassSoftmax(config, detector.head)
        case "supervised_contrastive":
            loss = SupervisedContrastive(config)
    return loss.to(detector.device)
