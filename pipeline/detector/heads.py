"""Heads of a detector: frames of the front end are pooled into one embedding, which is classified.

A new head is a subclass of `Head`, registered in `HEADS`; `HeadConfig` in variants.py names it and holds its settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.detector.pooling import mean_of_frames
from pipeline.detector.variants import EncoderConfig, HeadConfig
from pipeline.errors import InputError, did_you_mean

# B: utterances, F: frames of 20 ms, C: channels of the front end, N: hidden states, S: sums of them, H: attention
# heads, D: compressed channels, E: channels of the embedding, 2: the logits of (spoof, bonafide).


class Head(nn.Module):
    """Frames of chosen layers → embedding [B, E] → logits [B, 2].

    A subclass is built from an `EncoderConfig` and a `HeadConfig`, has `pool` and `forward`, and may have
    `layer_weights`, `frame_logits` and `direction`. All of them run in float32 with autocast off.
    """

    has_frame_logits: ClassVar[bool] = False
    """Whether `frame_logits` classifies single frames."""

    module_name: ClassVar[str] = "classifier"
    """Name of the head among the modules of the detector, and so the prefix of its tensors in a checkpoint."""

    layers: tuple[int, ...] = (-1,)
    """Hidden states to pool: 0 is the input of the first layer, i the output of layer i, -1 that of the transformer.

    -1 must be among them: DistributedDataParallel requires a gradient for the weights of every layer.
    """

    @property
    def embedding_width(self) -> int:
        """The number of channels of an embedding."""
        raise NotImplementedError

    def layer_weights(self) -> Tensor | None:
        """Weights [S, N] of sums over the N hidden states named in `layers`; None to pool the states themselves.

        The front end adds each state to the S sums as it is computed, and need not keep it.
        """
        return None

    def pool(self, hidden_BFC: Sequence[Tensor], valid_BF: Tensor | None) -> Tensor:
        """Pool hidden states into embeddings [B, E].

        Args:
            hidden_BFC: one tensor [B, F, C] for each entry of `layers`, or for each of the S sums of `layer_weights`;
                padded frames hold arbitrary values.
            valid_BF: True at valid frames; None if no frame is padding.
        """
        raise NotImplementedError

    def forward(self, embedding_BE: Tensor) -> Tensor:
        """Classify embeddings: [B, E] to [B, 2]."""
        raise NotImplementedError

    def frame_logits(self, hidden_BFC: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """Classify each frame: [B, F, 2].

        Raises:
            InputError: this head cannot classify single frames.
        """
        raise InputError(
            f"a {type(self).__name__} head has no frame logits; use a head that has them, such as mean_linear"
        )

    def direction(self) -> Tensor:
        """Return the direction [E] in which the score of an embedding rises.

        Raises:
            InputError: the score of this head does not rise in one direction.
        """
        raise InputError(
            f"oc_softmax starts from a direction that a {type(self).__name__} head does not have; "
            "choose another loss or head"
        )


class MeanLinear(nn.Linear, Head):
    """The head of the released detectors: the mean over valid frames, then one linear layer."""

    module_name = "proj_fc"
    has_frame_logits = True

    def __init__(self, front_end: EncoderConfig, config: HeadConfig) -> None:  # noqa: ARG002
        super().__init__(front_end.width, 2)

    @property
    def embedding_width(self) -> int:
        """The channels of the front end."""
        return self.in_features

    def pool(self, hidden_BFC: Sequence[Tensor], valid_BF: Tensor | None) -> Tensor:
        """Average the valid frames of the last layer: [B, C]."""
        [frames_BFC] = hidden_BFC
        return mean_of_frames(frames_BFC, valid_BF)

    def frame_logits(self, hidden_BFC: Sequence[Tensor]) -> Tensor:
        """Apply the linear layer to each frame [B, F, 2]; the mean over valid frames is the logits of the utterance."""
        [frames_BFC] = hidden_BFC
        logits_BF2: Tensor = self(frames_BFC)
        return logits_BF2

    def direction(self) -> Tensor:
        """Return the difference of the two rows of weights, [C]."""
        return (self.weight[1] - self.weight[0]).detach()


class MultiHeadFactorisedAttention(Head):
    """MHFA (Peng et al., SLT 2022, arXiv 2210.01273).

    Keys and values are two weighted sums of all hidden states, each compressed by a linear layer. The keys give each
    head one attention weight per frame; the means of the values under these weights, one per head, form the embedding.
    The two biases of the publication that add a constant to all attention logits of a head are left out: they have no
    effect on the softmax over frames, and Adam would move them by the rounding errors of their gradients.
    """

    module_name = "mhfa"

    def __init__(self, front_end: EncoderConfig, config: HeadConfig) -> None:
        super().__init__()
        self.layers = tuple(range(front_end.num_layers + 1))
        self.key_mixture = nn.Parameter(torch.zeros(len(self.layers)))
        self.value_mixture = nn.Parameter(torch.zeros(len(self.layers)))
        self.key = nn.Linear(front_end.width, config.compression_width, bias=False)
        self.value = nn.Linear(front_end.width, config.compression_width)
        self.attention = nn.Linear(config.compression_width, config.num_heads, bias=False)
        self.embedding = nn.Linear(config.num_heads * config.compression_width, config.embedding_width)
        self.output = nn.Linear(config.embedding_width, 2)

    @property
    def embedding_width(self) -> int:
        """See `HeadConfig.embedding_width`."""
        return self.output.in_features

    def layer_weights(self) -> Tensor:
        """Weights of the sums that become the keys and the values, [2, N]; each row sums to 1."""
        return torch.stack([self.key_mixture, self.value_mixture]).softmax(dim=1)

    def pool(self, hidden_BFC: Sequence[Tensor], valid_BF: Tensor | None) -> Tensor:
        """Attend to the valid frames with each head: [B, E]."""
        keys_BFC, values_BFC = hidden_BFC
        attention_BFH, values_BFD = self.attention(self.key(keys_BFC)), self.value(values_BFC)
        if valid_BF is not None:
            attention_BFH = attention_BFH.masked_fill(~valid_BF[:, :, None], -torch.inf)
            values_BFD = values_BFD.where(valid_BF[:, :, None], 0.0)
        pooled_BHD = attention_BFH.softmax(dim=1).transpose(1, 2) @ values_BFD
        embedding_BE: Tensor = self.embedding(pooled_BHD.flatten(1))
        return embedding_BE

    def forward(self, embedding_BE: Tensor) -> Tensor:
        """Apply the linear layer to the embedding: [B, 2]."""
        logits_B2: Tensor = self.output(embedding_BE)
        return logits_B2


HEADS: dict[str, type[Head]] = {"mean_linear": MeanLinear, "mhfa": MultiHeadFactorisedAttention}
"""Every head by the name that `HeadConfig.name` gives it."""


def head_class(config: HeadConfig) -> type[Head]:
    """Look up the class of a head.

    Raises:
        InputError: no head has this name.
    """
    if config.name not in HEADS:
        raise InputError(f"unknown head {config.name!r}{did_you_mean(config.name, HEADS)}")
    return HEADS[config.name]
