"""Training losses, with or without weights of their own.

Scores always come from the logits of the head, which every loss trains: a detector is saved and scored the same way
whatever loss trained it. Cross-entropy trains the head for all losses but `ExpectedAccuracy`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.config import LossConfig, TrainingConfig
from pipeline.detector.heads import Head
from pipeline.detector.network import Detector

# B: utterances of one batch on one rank, F: frames of 20 ms, E: channels of the embedding, 2: the classes
# (spoof, bonafide).

MIN_SPREAD = 1e-5
"""Added to the standard deviation by which `ExpectedAccuracy` divides, as published."""


class Loss(nn.Module):
    """Logits, embeddings and labels of one batch on one rank → a float32 scalar."""

    is_head_probe = False
    """Whether the gradient of the logits stops at the embedding, so that cross-entropy trains the head alone."""

    weight_2: Tensor

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config: LossConfig = config.loss
        weight_2 = torch.tensor([config.spoof_weight, config.bonafide_weight])
        self.register_buffer("weight_2", weight_2, persistent=False)

    def forward(
        self, logits_B2: Tensor, embedding_BE: Tensor, label_B: Tensor, reference_B2: Tensor | None = None
    ) -> Tensor:
        """Sum the loss of the logits and the loss of the embeddings.

        Args:
            logits_B2: of the detector.
            embedding_BE: what its head classifies.
            label_B: 0 spoof, 1 bona fide.
            reference_B2: logits of the frozen detector, if `LossConfig.has_reference`.
        """
        reference_B2 = None if reference_B2 is None else reference_B2.float()
        return self.of_logits(logits_B2.float(), label_B, reference_B2) + self.of_embedding(
            embedding_BE.float(), label_B
        )

    def of_logits(self, logits_B2: Tensor, label_B: Tensor, reference_B2: Tensor | None) -> Tensor:  # noqa: ARG002
        """Compute the part of the loss that trains the head: class-weighted cross-entropy."""
        smoothing = self.config.label_smoothing
        loss_B = F.cross_entropy(logits_B2, label_B, reduction="none", label_smoothing=smoothing)
        return self.weighted(loss_B, label_B)

    def of_embedding(self, embedding_BE: Tensor, label_B: Tensor) -> Tensor | float:  # noqa: ARG002
        """Compute the part of the loss that depends on the embeddings [B, E] directly; by default there is none."""
        return 0.0

    def weighted(self, loss_B: Tensor, label_B: Tensor) -> Tensor:
        """Average the losses of the utterances, each times the weight of its class.

        The sum is not divided by the weights in the batch: they would cancel in a batch of one class.
        """
        return (self.weight_2[label_B] * loss_B).mean()


class FrameLoss(nn.Module):
    """Class-weighted cross-entropy of labelled frames: the mean over the frames of an utterance, then over utterances.

    An utterance without labelled frames counts as 0, so that others do not weigh more beside it. Frames without a
    label, which include padding, have no effect.
    """

    weight_2: Tensor

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.label_smoothing = config.loss.label_smoothing
        weight_2 = torch.tensor([config.spoof_weight, config.bonafide_weight])
        self.register_buffer("weight_2", weight_2, persistent=False)

    def forward(self, frame_logits_BF2: Tensor, frame_label_BF: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            frame_logits_BF2: of the detector.
            frame_label_BF: 0 spoof, 1 bona fide, -1 no label.
        """
        is_labelled_BF = frame_label_BF >= 0
        label_BF = frame_label_BF.long().clamp(min=0)
        loss_BF = F.cross_entropy(
            frame_logits_BF2.float().transpose(1, 2),
            label_BF,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        loss_BF = (self.weight_2[label_BF] * loss_BF).where(is_labelled_BF, 0.0)
        return (loss_BF.sum(dim=1) / is_labelled_BF.sum(dim=1).clamp(min=1)).mean()


class CrossEntropy(Loss):
    """Cross-entropy of the two logits alone, as in AntiDeepfake (arXiv 2506.21090)."""


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
        self.centre = nn.Parameter(F.normalize(head.direction(), dim=0))

    def of_embedding(self, embedding_BE: Tensor, label_B: Tensor) -> Tensor:
        """Average the soft violation of the margins, weighted by class."""
        cosine_B = F.normalize(embedding_BE, dim=1) @ F.normalize(self.centre, dim=0)
        deficit_B = self.config.bonafide_margin - cosine_B
        excess_B = cosine_B - self.config.spoof_margin
        loss_B = F.softplus(self.config.scale * torch.where(label_B == 1, deficit_B, excess_B))
        return self.weighted(loss_B, label_B)


class SupervisedContrastive(Loss):
    """Supervised contrastive loss (Khosla et al., 2020) added to cross-entropy.

    Each embedding is pulled towards those of its class and pushed away from all others in the batch of its rank;
    embeddings are not gathered across ranks. Class weights apply to cross-entropy only, and an utterance that is the
    only one of its class in the batch is ignored.
    """

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


class ExpectedAccuracy(Loss):
    """The expected share of correct labels, near the detector at the start of the training.

    This is what the GRPO of arXiv 2603.02914 optimises. It draws 64 labels of each utterance from the detector, rewards
    the correct ones, subtracts the mean of the rewards and divides by their standard deviation over the batch. The
    gradient of that, averaged over the draws, has a closed form. With the probability p = sigmoid(z) of the true label,
    where z is the difference of the two logits, and the probability q of the frozen detector:

        L = mean(1 − p) / s + beta · mean(KL(q‖p)),  for each utterance  dL/dz = −p (1 − p) / s + beta (p − q)

    s = sqrt(a (1 − a)) is the standard deviation over the batch of one rank, whose expected accuracy is a = mean(p). It
    counts as a constant. With a standard deviation for each utterance alone, the first term has the gradient
    −sqrt(p (1 − p)), that of 2 arccos(sqrt(p)). Cross-entropy has −(1 − p): it pushes hardest where the detector
    contradicts the label with confidence, while both forms here leave such utterances alone, most of which have a
    wrong label.

    The score of such a detector is not a log odds: it starts as that of the frozen detector, whose prior it contains,
    and accuracy moves it towards the likelier class as far as beta allows.
    """

    def of_logits(self, logits_B2: Tensor, label_B: Tensor, reference_B2: Tensor | None) -> Tensor:
        """Compute the expected inaccuracy and the divergence, without cross-entropy."""
        margin_B = self._margin(logits_B2, label_B)
        loss_B = self._inaccuracy(margin_B, label_B)
        if reference_B2 is not None:
            log_p_B2, log_q_B2 = logits_B2.log_softmax(dim=1), reference_B2.log_softmax(dim=1)
            divergence_B2 = F.kl_div(log_p_B2, log_q_B2, reduction="none", log_target=True)
            loss_B = loss_B + self.config.beta * divergence_B2.sum(dim=1)
        return self.weighted(loss_B, label_B)

    def _inaccuracy(self, margin_B: Tensor, label_B: Tensor) -> Tensor:
        if self.config.groups == "utterance":
            # π/2 − 2 arctan(tanh(z / 4)) is 2 arccos(sqrt(p)), with a finite gradient for every z.
            return torch.pi / 2 - 2 * torch.atan(torch.tanh(margin_B / 4))
        wrong_B = torch.sigmoid(-margin_B)
        with torch.no_grad():
            weight_B = self.weight_2[label_B]
            # 1 − a from its own sum, because a near 1 is rounded.
            accuracy, inaccuracy = (
                (weight_B * share_B).sum() / weight_B.sum() for share_B in (torch.sigmoid(margin_B), wrong_B)
            )
            spread = torch.sqrt(accuracy * inaccuracy) + MIN_SPREAD
        return wrong_B / spread

    @staticmethod
    def _margin(logits_B2: Tensor, label_B: Tensor) -> Tensor:
        """Compute the logit of the true label minus that of the other."""
        difference_B = logits_B2[:, 1] - logits_B2[:, 0]
        return torch.where(label_B == 1, difference_B, -difference_B)


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
        case "expected_accuracy":
            loss = ExpectedAccuracy(config)
    return loss.to(detector.device)
