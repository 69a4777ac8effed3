"""The second part of a front end: self-attention layers that put each frame in the context of its clip."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.detector.convolutions import at_least_float32
from pipeline.detector.variants import NORM_EPSILON, EncoderConfig

# B: utterances, F: frames of 20 ms, C: channels, H: attention heads, D: channels of one head, K: kernel width.


class Transformer(nn.Module):
    """A convolution that tells frames their place, then self-attention layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.dropout = config.dropout
        self.layer_drop = config.layer_drop
        self.activation_checkpointing = False
        self.pos_conv = nn.ModuleDict({"0": PositionConvolution(config)})
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)

    def forward(self, frames_BFC: Tensor, valid_BF: Tensor | None) -> Tensor:
        """Put each frame in the context of its clip; what comes out at padded frames has no meaning."""
        mask_B11F = None
        if valid_BF is not None:
            frames_BFC = frames_BFC.where(valid_BF[:, :, None], 0.0)
            mask_B11F = valid_BF[:, None, None, :]
        frames_BFC = frames_BFC + self.pos_conv["0"](frames_BFC)
        if not self.pre_norm:
            frames_BFC = self.layer_norm(frames_BFC)
        frames_BFC = F.dropout(frames_BFC, self.dropout, self.training)
        for layer in self.layers:
            frames_BFC = self._run(layer, frames_BFC, mask_B11F)
        return self.layer_norm(frames_BFC) if self.pre_norm else frames_BFC

    def use_explicit_attention(self, is_explicit: bool) -> None:
        """Leave attention to fused kernels, or not."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.self_attn.is_explicit = is_explicit

    def _run(self, layer: nn.Module, frames_BFC: Tensor, mask_B11F: Tensor | None) -> Tensor:
        drops = self.training and self.layer_drop > 0.0
        # A dropped layer is computed and thrown away, so that its weights get a gradient (of zero) on every
        # rank, as DistributedDataParallel demands, and the graph is the same in every step.
        keep = torch.rand((), device=frames_BFC.device) >= self.layer_drop if drops else None
        output_BFC: Tensor
        if self.training and self.activation_checkpointing:
            output_BFC = checkpoint(layer, frames_BFC, mask_B11F, use_reentrant=False)
        else:
            output_BFC = layer(frames_BFC, mask_B11F)
        return output_BFC if keep is None else output_BFC.where(keep, frames_BFC)


class PositionConvolution(nn.Module):
    """A wide grouped convolution, weight-normalised over all but its kernel.

    `weight_g` and `weight_v` are plain parameters: the parametrizations API would rename them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.groups = config.position_groups
        self.kernel = config.position_kernel
        weight_v = torch.empty(config.width, config.width // self.groups, self.kernel)
        nn.init.normal_(weight_v, std=math.sqrt(4.0 / (self.kernel * config.width)))
        self.weight_g = nn.Parameter(weight_v.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight_v)
        self.bias = nn.Parameter(torch.zeros(config.width))

    def forward(self, frames_BFC: Tensor) -> Tensor:
        """Convolve [B, F, C] to the same shape; frames outside count as zeros."""
        weight = torch._weight_norm(at_least_float32(self.weight_v), at_least_float32(self.weight_g), 2)
        position_BCF = F.conv1d(
            frames_BFC.transpose(1, 2),
            weight.to(frames_BFC.dtype),
            self.bias.to(frames_BFC.dtype),
            padding=self.kernel // 2,
            groups=self.groups,
        )
        # An even kernel, padded by its half on both sides, gives one frame too many.
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
        """Transform frames; `mask_B11F` is True at the frames that may be attended to, None for all."""
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
    """Multi-head attention of frames to the frames of their own clip."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.is_explicit = False
        """Whether attention is spelled out instead of left to a fused kernel."""
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, frames_BFC: Tensor, mask_B11F: Tensor | None) -> Tensor:
        """Mix frames; `mask_B11F` is True at the frames that may be attended to, None for all."""
        query_BHFD, key_BHFD, value_BHFD = (
            project(frames_BFC).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = _attend_explicitly if self.is_explicit else F.scaled_dot_product_attention
        dropout = self.dropout if self.training else 0.0
        mixed_BHFD = attend(query_BHFD, key_BHFD, value_BHFD, mask_B11F, dropout)
        mixed_BFC: Tensor = self.out_proj(mixed_BHFD.transpose(1, 2).flatten(2))
        return mixed_BFC


def _attend_explicitly(
    query_BHFD: Tensor, key_BHFD: Tensor, value_BHFD: Tensor, mask_B11F: Tensor | None, dropout: float
) -> Tensor:
    """Do what `scaled_dot_product_attention` does, one operation after the other."""
    weight_BHFF = query_BHFD @ key_BHFD.transpose(2, 3) / math.sqrt(query_BHFD.shape[3])
    if mask_B11F is not None:
        weight_BHFF = weight_BHFF.masked_fill(~mask_B11F, -torch.inf)
    return F.dropout(weight_BHFF.softmax(dim=3), dropout).to(value_BHFD.dtype) @ value_BHFD
