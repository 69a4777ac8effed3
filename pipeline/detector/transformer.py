"""The second part of a front end: position convolution and self-attention layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.detector.convolutions import at_least_float32
from pipeline.detector.initial import draw_normal_, fill_norms_
from pipeline.detector.pooling import mean_of_frames
from pipeline.detector.variants import NORM_EPSILON, EncoderConfig

# B: utterances, F: frames of 20 ms, C: channels, H: attention heads, D: channels of one head, K: kernel width,
# N: hidden states, S: sums of them.


class Transformer(nn.Module):
    """A convolution that encodes positions, then self-attention layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.dropout = config.dropout
        self.layer_drop = config.layer_drop
        self.activation_checkpointing = False
        self.pos_conv = nn.ModuleDict({"0": PositionConvolution(config)})
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)

    def forward(
        self,
        frames_BFC: Tensor,
        valid_BF: Tensor | None,
        layers: Sequence[int] = (-1,),
        weights_SN: Tensor | None = None,
        averaged_layers: Sequence[int] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Contextualise frames [B, F, C].

        Args:
            frames_BFC: output of the convolutions, projected to the width of the transformer.
            valid_BF: True at valid frames, None if no frame is padding; outputs at padded frames are arbitrary.
            layers: indices of hidden states: 0 is the input of the first layer, i the output of layer i, and -1 the
                output of the transformer.
            weights_SN: weights of the hidden states in S sums, which are returned instead; None: no sums.
            averaged_layers: indices of hidden states whose mean over valid frames is returned as well.

        Returns:
            The requested hidden states or sums of them, each [B, F, C]; and the means [B, C] in float32.
        """
        last = len(self.layers)
        asked = (*layers, *averaged_layers)
        assert all(-last - 1 <= index <= last for index in asked), f"{asked} of {last} layers"
        hidden = HiddenStates([index % (last + 1) for index in layers], weights_SN)
        means = LayerMeans([index % (last + 1) for index in averaged_layers], valid_BF)
        mask_B11F = None
        if valid_BF is not None:
            frames_BFC = frames_BFC.where(valid_BF[:, :, None], 0.0)
            mask_B11F = valid_BF[:, None, None, :]
        frames_BFC = frames_BFC + self.pos_conv["0"](frames_BFC)
        if not self.pre_norm:
            frames_BFC = self.layer_norm(frames_BFC)
        frames_BFC = F.dropout(frames_BFC, self.dropout, self.training)
        hidden.add(0, frames_BFC)
        means.add(0, frames_BFC)
        for index, layer in enumerate(self.layers, start=1):
            frames_BFC = self._run(layer, frames_BFC, mask_B11F)
            if self.pre_norm and index == last:
                frames_BFC = self.layer_norm(frames_BFC)
            hidden.add(index, frames_BFC)
            means.add(index, frames_BFC)
        return hidden.collected(), means.collected()

    def _run(self, layer: nn.Module, frames_BFC: Tensor, mask_B11F: Tensor | None) -> Tensor:
        drops = self.training and self.layer_drop > 0.0
        # A dropped layer is computed and its output discarded: DistributedDataParallel needs a gradient (of zero)
        # for its weights on every rank, and the graph stays the same in every step.
        keep = torch.rand((), device=frames_BFC.device) >= self.layer_drop if drops else None
        output_BFC: Tensor
        if self.training and self.activation_checkpointing:
            output_BFC = checkpoint(layer, frames_BFC, mask_B11F, use_reentrant=False)
        else:
            output_BFC = layer(frames_BFC, mask_B11F)
        return output_BFC if keep is None else output_BFC.where(keep, frames_BFC)


class HiddenStates:
    """Collects the hidden states that a head asks for, or adds them up as they are computed."""

    def __init__(self, wanted: Sequence[int], weights_SN: Tensor | None) -> None:
        self._wanted = wanted
        self._weights_SN = weights_SN
        self._states: dict[int, Tensor] = {}
        self._sums_SBFC: Tensor | None = None

    def add(self, index: int, frames_BFC: Tensor) -> None:
        """Take hidden state number `index`; one that is not wanted is dropped."""
        if index not in self._wanted:
            return
        if self._weights_SN is None:
            self._states[index] = frames_BFC
            return
        weights_S = self._weights_SN[:, self._wanted.index(index)]
        if self._sums_SBFC is None:
            dtype = torch.promote_types(frames_BFC.dtype, weights_S.dtype)
            self._sums_SBFC = frames_BFC.new_zeros(len(weights_S), *frames_BFC.shape, dtype=dtype)
        # addcmul_ adds a half-precision state in float32 and needs no float32 copy of it, but autocast would make one.
        with torch.autocast(frames_BFC.device.type, enabled=False):
            self._sums_SBFC.addcmul_(frames_BFC, weights_S[:, None, None, None])

    def collected(self) -> list[Tensor]:
        """The wanted hidden states in their order, or the sums, each [B, F, C]."""
        if self._sums_SBFC is not None:
            return list(self._sums_SBFC)
        return [self._states[index] for index in self._wanted]


class LayerMeans:
    """Averages chosen hidden states over time as they are computed, so that none has to be kept."""

    def __init__(self, wanted: Sequence[int], valid_BF: Tensor | None) -> None:
        self._wanted = wanted
        self._valid_BF = valid_BF
        self._means: dict[int, Tensor] = {}

    def add(self, index: int, frames_BFC: Tensor) -> None:
        """Take hidden state number `index`; one that is not wanted is dropped."""
        if index in self._wanted:
            self._means[index] = mean_of_frames(frames_BFC.float(), self._valid_BF)

    def collected(self) -> list[Tensor]:
        """The mean over valid frames of each wanted hidden state, [B, C] in float32, in their order."""
        return [self._means[index] for index in self._wanted]


class PositionConvolution(nn.Module):
    """A wide grouped convolution with weight normalisation per kernel position.

    `weight_g` and `weight_v` are plain parameters, because torch's parametrizations would rename them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.groups = config.position_groups
        self.kernel = config.position_kernel
        weight_v = torch.empty(config.width, config.width // self.groups, self.kernel)
        draw_normal_(weight_v, std=math.sqrt(4.0 / (self.kernel * config.width)))
        weight_g = torch.empty(1, 1, self.kernel)
        fill_norms_(weight_g, weight_v)
        self.weight_g = nn.Parameter(weight_g)
        self.weight_v = nn.Parameter(weight_v)
        self.bias = nn.Parameter(torch.zeros(config.width))

    def forward(self, frames_BFC: Tensor) -> Tensor:
        """Convolve [B, F, C] to the same shape, with zero padding at both ends."""
        weight = torch._weight_norm(at_least_float32(self.weight_v), at_least_float32(self.weight_g), 2)
        position_BCF = F.conv1d(
            frames_BFC.transpose(1, 2),
            weight.to(frames_BFC.dtype),
            self.bias.to(frames_BFC.dtype),
            padding=self.kernel // 2,
            groups=self.groups,
        )
        # An even kernel with padding of half its width on both sides gives one frame too many.
        return F.gelu(position_BCF[:, :, : frames_BFC.shape[1]]).transpose(1, 2)


class Layer(nn.Module):
    """Self-attention, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.dropout = config.dropout
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.fc1 = nn.Linear(config.width, config.ffn_width)
        self.fc2 = nn.Linear(config.ffn_width, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)

    def forward(self, frames_BFC: Tensor, mask_B11F: Tensor | None) -> Tensor:
        """Transform frames; `mask_B11F` is True at frames to attend to, None for all frames."""
        if self.pre_norm:
            frames_BFC = frames_BFC + self._attend(self.self_attn_layer_norm(frames_BFC), mask_B11F)
            return frames_BFC + self._feed_forward(self.final_layer_norm(frames_BFC))
        frames_BFC = self.self_attn_layer_norm(frames_BFC + self._attend(frames_BFC, mask_B11F))
        normed_BFC: Tensor = self.final_layer_norm(frames_BFC + self._feed_forward(frames_BFC))
        return normed_BFC

    def _attend(self, frames_BFC: Tensor, mask_B11F: Tensor | None) -> Tensor:
        return F.dropout(self.self_attn(frames_BFC, mask_B11F), self.dropout, self.training)

    def _feed_forward(self, frames_BFC: Tensor) -> Tensor:
        return F.dropout(self.fc2(F.gelu(self.fc1(frames_BFC))), self.dropout, self.training)


class SelfAttention(nn.Module):
    """Multi-head attention among the frames of each utterance."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, frames_BFC: Tensor, mask_B11F: Tensor | None) -> Tensor:
        """Attend; `mask_B11F` is True at frames to attend to, None for all frames."""
        query_BHFD, key_BHFD, value_BHFD = (
            project(frames_BFC).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        mixed_BHFD = F.scaled_dot_product_attention(query_BHFD, key_BHFD, value_BHFD, mask_B11F, dropout)
        mixed_BFC: Tensor = self.out_proj(mixed_BHFD.transpose(1, 2).flatten(2))
        return mixed_BFC
