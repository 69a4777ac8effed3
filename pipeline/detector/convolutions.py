"""The first part of a front end: seven convolutions from samples to frames, unaffected by padding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.initial import draw_normal_
from pipeline.detector.variants import CONVOLUTIONS, MIN_NUM_SAMPLES, NORM_EPSILON, EncoderConfig

# B: utterances, T: samples at 16 kHz, F: frames (20 ms after all convolutions), C: channels.


def frame_lengths(num_samples_B: Tensor) -> Tensor:
    """Count the frames of utterances with integers; float32 would be wrong beyond 2**24 samples (17 min).

    An utterance shorter than `MIN_NUM_SAMPLES` has one frame, because it is padded to that length.
    """
    num_frames_B = num_samples_B.clamp(min=MIN_NUM_SAMPLES)
    for kernel, stride in CONVOLUTIONS:
        num_frames_B = (num_frames_B - kernel) // stride + 1
    return num_frames_B


class ConvolutionStack(nn.Module):
    """Seven strided convolutions: samples to frames."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        # Keys are positions in fairseq's nn.Sequential; modules without weights are left out.
        self.conv_layers = nn.ModuleList()
        for index, (kernel, stride) in enumerate(CONVOLUTIONS):
            num_inputs = 1 if index == 0 else config.conv_width
            layer = nn.ModuleDict(
                {"0": Convolution(num_inputs, config.conv_width, kernel, stride, config.conv_bias)}
            )
            if config.conv_norm == "layer":
                layer["2"] = nn.ModuleDict({"1": nn.LayerNorm(config.conv_width, eps=NORM_EPSILON)})
            elif index == 0:
                layer["2"] = TimeNorm(config.conv_width)
            self.conv_layers.append(layer)
        self.conv_norm = config.conv_norm

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None) -> Tensor:
        """Turn waveforms [B, T] into frames [B, F, conv_width]; `num_samples_B` is None if no row is padded."""
        frames_BFC = waveform_BT[:, :, None]
        for index, layer in enumerate(self.conv_layers):
            assert isinstance(layer, nn.ModuleDict)
            frames_BFC = layer["0"](frames_BFC)
            if self.conv_norm == "layer":
                norm = layer["2"]
                assert isinstance(norm, nn.ModuleDict)
                frames_BFC = norm["1"](frames_BFC)
            elif index == 0:
                frames_BFC = layer["2"](frames_BFC, num_samples_B)
            frames_BFC = F.gelu(frames_BFC)
        return frames_BFC


class Convolution(nn.Module):
    """A strided convolution over time with channels last in memory."""

    def __init__(self, num_inputs: int, num_outputs: int, kernel: int, stride: int, has_bias: bool) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs, kernel))
        self.bias = nn.Parameter(torch.zeros(num_outputs)) if has_bias else None
        draw_normal_(self.weight, std=math.sqrt(2.0) / math.sqrt(num_inputs * kernel))  # He et al.

    def forward(self, frames_BFC: Tensor) -> Tensor:
        """Convolve [B, F, C] to fewer frames."""
        # conv2d on an image of height 1 keeps channels last, so the norm that follows needs no transpose.
        frames_BC1F = frames_BFC.transpose(1, 2).unsqueeze(2)
        frames_BC1F = F.conv2d(frames_BC1F, self.weight.unsqueeze(2), self.bias, (1, self.stride))
        return frames_BC1F.squeeze(2).transpose(1, 2)


class TimeNorm(nn.Module):
    """Normalise each channel over the valid frames of an utterance: GroupNorm with one group per channel.

    Padding is excluded from the statistics, so a score does not depend on the rest of the batch.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, frames_BFC: Tensor, num_samples_B: Tensor | None) -> Tensor:
        """Normalise the output of the first convolution [B, F, C] in float32 or wider."""
        dtype = frames_BFC.dtype
        frames_BFC = at_least_float32(frames_BFC)
        if num_samples_B is None:
            variance_B1C, mean_B1C = torch.var_mean(frames_BFC, dim=1, correction=0, keepdim=True)
        else:
            kernel, stride = CONVOLUTIONS[0]
            num_frames_B = (num_samples_B - kernel) // stride + 1
            valid_BF1 = is_valid(num_frames_B, frames_BFC.shape[1])[:, :, None]
            count_B11 = num_frames_B[:, None, None]
            mean_B1C = frames_BFC.where(valid_BF1, 0.0).sum(dim=1, keepdim=True) / count_B11
            centred_BFC = (frames_BFC - mean_B1C).where(valid_BF1, 0.0)
            variance_B1C = centred_BFC.square().sum(dim=1, keepdim=True) / count_B11
        scale_B1C = torch.rsqrt(variance_B1C + NORM_EPSILON) * self.weight
        return ((frames_BFC - mean_B1C) * scale_B1C + self.bias).to(dtype)


def is_valid(lengths_B: Tensor, length: int) -> Tensor:
    """Mark the positions before the end of each row: [B] to [B, length], bool."""
    return torch.arange(length, device=lengths_B.device) < lengths_B[:, None]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to float32, unless the tensor is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
