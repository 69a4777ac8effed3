"""What a training minimises: one interface for every loss, with or without weights of its own.

All of them train the linear head too, and it is always the head that scores: a saved detector has the released
layout and scores alike everywhere, whatever it was trained with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.config import LossConfig, TrainingConfig
from pipeline.detector.network import Detector

# B: utterances of one batch on one rank, C: channels, 2: the classes (spoof, bonafide).


class Loss(nn.Module):
    """Logits, embeddings and labels of one batch on one rank → a number, in float32."""

    is_head_probe = False
    """Whether the head only reads the embeddings: its gradient then ends there."""

    weight_2: Tensor

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        weight_2 = torch.tensor([config.spoof_weight, config.bonafide_weight])
        self.register_buffer("weight_2", weight_2, persistent=False)

    def forward(self, logits_B2: Tensor, embedding_BC: Tensor, label_B: Tensor) -> Tensor:
        """Cross-entropy of the head, averaged with the weights of the classes; what more there is, is added."""
        return F.cross_entropy(logits_B2.float(), label_B, self.weight_2) + self.of_embedding(
            embedding_BC.float(), label_B
        )

    def of_embedding(self, embedding_BC: Tensor, label_B: Tensor) -> Tensor | float:
        """Judge the embeddings themselves."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross-entropy of the two logits and nothing else, as in the paper."""

    def of_embedding(self, embedding_BC: Tensor, label_B: Tensor) -> float:  # noqa: ARG002
        """Any embedding will do."""
        return 0.0


class OneClassSoftmax(Loss):
    """One-class softmax (Zhang, Jiang and Duan, 2021): bona fide speech near a centre, spoofed speech far away.

    Near is a large cosine between an embedding and the learnt centre, both on the unit sphere. No linear head
    can give that cosine, since it does not see how long an embedding is. So the front end learns from the
    one-class loss alone, and the head learns by cross-entropy to read the labels off its embeddings, without
    moving them. The centre starts in the direction in which the head already scores higher.
    """

    is_head_probe = True

    def __init__(self, config: TrainingConfig, head: nn.Linear) -> None:
        super().__init__(config)
        self.config: LossConfig = config.loss
        direction_C = (head.weight[1] - head.weight[0]).detach()
        self.centre = nn.Parameter(F.normalize(direction_C, dim=0))

    def of_embedding(self, embedding_BC: Tensor, label_B: Tensor) -> Tensor:
        """Average the soft excess over the margins, with the weights of the classes."""
        cosine_B = F.normalize(embedding_BC, dim=1) @ F.normalize(self.centre, dim=0)
        lacking_B = self.config.bonafide_margin - cosine_B
        excess_B = cosine_B - self.config.spoof_margin
        loss_B = F.softplus(self.config.scale * torch.where(label_B == 1, lacking_B, excess_B))
        weight_B = self.weight_2[label_B]
        return (weight_B * loss_B).sum() / weight_B.sum()


class SupervisedContrastive(Loss):
    """Supervised contrastive loss (Khosla et al., 2020) beside cross-entropy.

    Each embedding is drawn to those of its class and pushed from all others. It sees the batch of one rank:
    embeddings do not travel, so more ranks do not make its batch larger. Classes have no weights here, and an
    utterance without another of its class in the batch is passed over.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__(config)
        self.config: LossConfig = config.loss

    def of_embedding(self, embedding_BC: Tensor, label_B: Tensor) -> Tensor:
        """Average over the utterances that have company, times the weight of the contrastive part."""
        unit_BC = F.normalize(embedding_BC, dim=1)
        is_self_BB = torch.eye(len(label_B), dtype=torch.bool, device=label_B.device)
        similarity_BB = unit_BC @ unit_BC.T / self.config.temperature
        # Not −∞: the gradient of a batch of one would not be a number.
        similarity_BB = similarity_BB.masked_fill(is_self_BB, torch.finfo(torch.float32).min)
        log_share_BB = similarity_BB - similarity_BB.logsumexp(dim=1, keepdim=True)
        is_same_BB = (label_B[:, None] == label_B) & ~is_self_BB
        num_same_B = is_same_BB.sum(dim=1)
        mean_B = log_share_BB.where(is_same_BB, 0.0).sum(dim=1) / num_same_B.clamp(min=1)
        num_in_company = (num_same_B > 0).sum().clamp(min=1)
        return -self.config.contrastive_weight * mean_B.sum() / num_in_company


def make_loss(config: TrainingConfig, detector: Detector) -> Loss:
    """Build the loss of a training on the device of its detector; the same on every rank."""
    match config.loss.name:
        case "cross_entropy":
            loss: Loss = CrossEntropy(config)
        case "oc_softmax":
            loss = OneClassSoftmax(config, detector.proj_fc)
        case "supervised_contrastive":
            loss = SupervisedContrastive(config)
    return loss.to(detector.proj_fc.weight.device)
