"""The detector: a wav2vec 2.0 or HuBERT front end, the mean over its frames, and one linear head.

The names of the parameters are those of the released AntiDeepfake checkpoints (`m_ssl.model.*`,
`proj_fc.*`), so a `state_dict` is a checkpoint and nothing is ever renamed. The mathematics is that of
wav2vec 2.0 (Baevski et al., 2020), HuBERT (Hsu et al., 2021) and XLS-R (Babu et al., 2021). Padding is
invisible: a clip in a padded batch gets the logits that it gets alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.convolutions import ConvolutionStack, at_least_float32, frame_lengths, is_valid
from pipeline.detector.transformer import Transformer
from pipeline.detector.variants import MIN_NUM_SAMPLES, NORM_EPSILON, VARIANTS, EncoderConfig

__all__ = ["PREFIX", "VARIANTS", "Detector", "EncoderConfig", "FrontEnd", "frame_lengths", "normalise"]

PREFIX = "m_ssl.model."
"""What the released layout puts before the name that fairseq gives to a tensor of the front end."""

# B: utterances, T: samples at 16 kHz, F: frames (20 ms once all convolutions are passed), C: channels,
# 2: the logits of (spoof, bonafide).


def normalise(waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
    """Give the valid samples of every clip mean 0 and variance 1, in float32, and set its padding to 0.

    This is the layer norm over the whole clip that the released detectors expect. `num_samples_B` None means
    that no clip is padded.
    """
    waveform_BT = waveform_BT.float()
    if num_samples_B is None:
        return F.layer_norm(waveform_BT, waveform_BT.shape[-1:], eps=NORM_EPSILON)
    valid_BT = is_valid(num_samples_B.to(waveform_BT.device), waveform_BT.shape[1])
    count_B1 = valid_BT.sum(dim=1, keepdim=True).clamp(min=1)
    waveform_BT = waveform_BT.where(valid_BT, 0.0)
    centred_BT = (waveform_BT - waveform_BT.sum(dim=1, keepdim=True) / count_B1).where(valid_BT, 0.0)
    variance_B1 = centred_BT.square().sum(dim=1, keepdim=True) / count_B1
    return centred_BT * torch.rsqrt(variance_B1 + NORM_EPSILON)


class Detector(nn.Module):
    """Waveforms in, two logits out: index 0 spoof, index 1 bonafide.

    Weights start random; seed them by `torch.manual_seed` before the call. `pretraining_tensors` are the tensors of
    pre-training that a checkpoint brought along, by their full names: not part of the network, kept for saving.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.pretraining_tensors: dict[str, Tensor] = {}
        self.is_head_probe = False
        """Whether the gradient of the head ends at the embedding."""
        self.m_ssl = nn.ModuleDict({"model": FrontEnd(config)})
        self.proj_fc = nn.Linear(config.width, 2)
        self.apply(_initialise)

    @property
    def encoder(self) -> Transformer:
        """The part of the front end with the layers."""
        encoder = self.m_ssl["model"].encoder
        assert isinstance(encoder, Transformer)
        return encoder

    def forward(
        self, waveform_BT: Tensor, num_samples_B: Tensor | None = None, *, with_embedding: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Score normalised waveforms: [B, T] and their valid lengths (None: nothing is padded) to [B, 2].

        `with_embedding` returns the pooled embeddings [B, C] too, of the same pass.
        """
        embedding_BC = self.embed(waveform_BT, num_samples_B)
        with torch.autocast(embedding_BC.device.type, enabled=False):
            logits_B2: Tensor = self.proj_fc(embedding_BC.detach() if self.is_head_probe else embedding_BC)
        return (logits_B2, embedding_BC) if with_embedding else logits_B2

    def embed(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Average the frames of normalised waveforms, in float32 or wider: [B, T] to [B, C]."""
        frames_BFC: Tensor
        frames_BFC, valid_BF = self.m_ssl["model"](waveform_BT, num_samples_B)
        frames_BFC = at_least_float32(frames_BFC)
        if valid_BF is None:
            return frames_BFC.mean(dim=1)
        total_BC = frames_BFC.where(valid_BF[:, :, None], 0.0).sum(dim=1)
        mean_BC: Tensor = total_BC / valid_BF.sum(dim=1, keepdim=True)
        return mean_BC


class FrontEnd(nn.Module):
    """The self-supervised encoder: waveforms to frames."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.input_dropout = config.input_dropout
        self.conv_gradient_scale = config.conv_gradient_scale
        self.feature_extractor = ConvolutionStack(config)
        self.layer_norm = nn.LayerNorm(config.conv_width, eps=NORM_EPSILON)
        self.post_extract_proj = nn.Linear(config.conv_width, config.width)
        self.encoder = Transformer(config)

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encode normalised waveforms; also say which frames are valid, None where all of them are."""
        num_samples_B = _lengths_that_matter(waveform_BT, num_samples_B)
        waveform_BT = F.pad(waveform_BT, (0, max(0, MIN_NUM_SAMPLES - waveform_BT.shape[1])))
        frames_BFC = self.feature_extractor(waveform_BT, num_samples_B)
        if self.conv_gradient_scale != 1.0:
            frames_BFC = _scale_gradient(frames_BFC, self.conv_gradient_scale)
        frames_BFC = self.post_extract_proj(self.layer_norm(frames_BFC))
        frames_BFC = F.dropout(frames_BFC, self.input_dropout, self.training)
        valid_BF = None
        if num_samples_B is not None:
            valid_BF = is_valid(frame_lengths(num_samples_B), frames_BFC.shape[1])
        return self.encoder(frames_BFC, valid_BF), valid_BF


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def _scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """Pass a tensor through, and its gradient times a constant."""
    scaled: Tensor = _ScaleGradient.apply(tensor, scale)  # type: ignore[no-untyped-call]
    return scaled


def _lengths_that_matter(waveform_BT: Tensor, num_samples_B: Tensor | None) -> Tensor | None:
    """Move lengths to the waveform's device, each at least one frame long; None where nothing is padded."""
    if num_samples_B is None:
        return None
    # Asking a GPU would wait for it, and asking inside a compiled graph would cut it in two.
    may_ask = num_samples_B.device.type == "cpu" and not torch.compiler.is_compiling()
    if may_ask and bool((num_samples_B == waveform_BT.shape[1]).all()):
        return None
    return num_samples_B.to(waveform_BT.device, non_blocking=True).clamp(min=MIN_NUM_SAMPLES)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
