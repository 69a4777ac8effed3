"""The detector: a wav2vec 2.0 or HuBERT front end, and a head that pools its frames and classifies.

Parameters are named as in the released AntiDeepfake checkpoints (`m_ssl.model.*`, `proj_fc.*`), so a
`state_dict` is a checkpoint and no tensor is ever renamed. The architecture is that of wav2vec 2.0 (Baevski et
al., 2020), HuBERT (Hsu et al., 2021) and XLS-R (Babu et al., 2021). Padding does not affect the result: an
utterance in a padded batch gets the same logits as alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.convolutions import ConvolutionStack, at_least_float32, frame_lengths, is_valid
from pipeline.detector.heads import Head, head_class
from pipeline.detector.initial import draw_normal_
from pipeline.detector.transformer import Transformer
from pipeline.detector.variants import MIN_NUM_SAMPLES, NORM_EPSILON, VARIANTS, DetectorConfig, EncoderConfig

__all__ = [
    "PREFIX",
    "VARIANTS",
    "Detector",
    "DetectorConfig",
    "DetectorOutput",
    "EncoderConfig",
    "FrontEnd",
    "frame_lengths",
    "normalise",
]

PREFIX = "m_ssl.model."
"""Prefix of the front end's tensors in the released layout; fairseq's names follow it."""

# B: utterances, T: samples at 16 kHz, F: frames (20 ms after all convolutions), C: channels of the front end,
# E: channels of the embedding, 2: the logits of (spoof, bonafide).


def normalise(waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
    """Normalise the valid samples of each utterance to mean 0 and variance 1 in float32, and zero its padding.

    This is the layer norm over the whole utterance that the released detectors expect.

    Args:
        waveform_BT: samples at 16 kHz, [B, T].
        num_samples_B: number of valid samples in each row; None if no row is padded.
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


class DetectorOutput(NamedTuple):
    """Results of one forward pass."""

    logits: Tensor
    """[B, 2]: index 0 spoof, index 1 bonafide."""
    embedding: Tensor
    """[B, E]: the pooled frames, which the head classifies."""
    frame_logits: Tensor | None = None
    """[B, F, 2] if requested, 0 at padded frames; `frame_lengths` counts the valid frames."""
    layer_means: Sequence[Tensor] = ()
    """[B, C] in float32 for each requested hidden state: its mean over valid frames."""


class Detector(nn.Module):
    """Waveforms → logits of (spoof, bonafide).

    Weights are initialised at random: call `torch.manual_seed` before. `pretraining_tensors` holds tensors that
    only pre-training uses, by their full names: they are not part of the network, but are saved with it.
    """

    def __init__(self, config: DetectorConfig) -> None:
        """Build the front end and the head.

        Raises:
            InputError: no head has the name in `config`.
        """
        super().__init__()
        self.config = config
        self.pretraining_tensors: dict[str, Tensor] = {}
        self.is_head_probe = False
        """Whether to stop the gradient of the logits at the embedding."""
        make_head = head_class(config.head)
        self.m_ssl = nn.ModuleDict({"model": FrontEnd(config.front_end)})
        self.add_module(make_head.module_name, make_head(config.front_end, config.head))
        self.apply(_initialise)

    @property
    def front_end(self) -> FrontEnd:
        """The self-supervised encoder."""
        front_end = self.m_ssl["model"]
        assert isinstance(front_end, FrontEnd)
        return front_end

    @property
    def encoder(self) -> Transformer:
        """The transformer of the front end."""
        encoder = self.front_end.encoder
        assert isinstance(encoder, Transformer)
        return encoder

    @property
    def head(self) -> Head:
        """The head, which is registered under the name that its tensors have in a checkpoint."""
        head = self.get_submodule(head_class(self.config.head).module_name)
        assert isinstance(head, Head)
        return head

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(
        self,
        waveform_BT: Tensor,
        num_samples_B: Tensor | None = None,
        *,
        with_frame_logits: bool = False,
        averaged_layers: Sequence[int] = (),
    ) -> DetectorOutput:
        """Classify normalised waveforms.

        Args:
            waveform_BT: normalised samples at 16 kHz, [B, T].
            num_samples_B: number of valid samples in each row; None if no row is padded.
            with_frame_logits: whether to classify each frame as well.
            averaged_layers: hidden states whose mean over frames is returned as well, numbered as in `Head.layers`.

        Raises:
            InputError: frame logits are requested from a head that has none.
        """
        head = self.head
        with torch.autocast(waveform_BT.device.type, enabled=False):
            weights_SN = head.layer_weights()
        hidden_BFC, valid_BF, layer_means = self.front_end(
            waveform_BT, num_samples_B, head.layers, weights_SN, averaged_layers
        )
        with torch.autocast(waveform_BT.device.type, enabled=False):
            hidden_BFC = [at_least_float32(frames_BFC) for frames_BFC in hidden_BFC]
            embedding_BE = head.pool(hidden_BFC, valid_BF)
            logits_B2: Tensor = head(embedding_BE.detach() if self.is_head_probe else embedding_BE)
            logits_BF2 = None
            if with_frame_logits:
                logits_BF2 = head.frame_logits(hidden_BFC)
                logits_BF2 = logits_BF2 if valid_BF is None else logits_BF2.where(valid_BF[:, :, None], 0.0)
        return DetectorOutput(logits_B2, embedding_BE, logits_BF2, layer_means)


class FrontEndOutput(NamedTuple):
    """What the front end gives for a batch."""

    hidden: list[Tensor]
    """Each requested hidden state or sum, [B, F, C]."""
    valid: Tensor | None
    """[B, F], True at valid frames; None if no frame is padding."""
    layer_means: list[Tensor]
    """The mean over valid frames of each hidden state in `averaged_layers`, [B, C] in float32."""


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

    def forward(
        self,
        waveform_BT: Tensor,
        num_samples_B: Tensor | None,
        layers: Sequence[int] = (-1,),
        weights_SN: Tensor | None = None,
        averaged_layers: Sequence[int] = (),
    ) -> FrontEndOutput:
        """Encode normalised waveforms [B, T].

        Args:
            waveform_BT: normalised samples at 16 kHz.
            num_samples_B: number of valid samples in each row; None if no row is padded.
            layers: which hidden states to return, numbered as in `Head.layers`.
            weights_SN: return S sums of the hidden states with these weights instead; see `Head.layer_weights`.
            averaged_layers: hidden states to average over valid frames.
        """
        num_samples_B = _effective_lengths(waveform_BT, num_samples_B)
        waveform_BT = F.pad(waveform_BT, (0, max(0, MIN_NUM_SAMPLES - waveform_BT.shape[1])))
        frames_BFC = self.feature_extractor(waveform_BT, num_samples_B)
        if self.conv_gradient_scale != 1.0:
            frames_BFC = _scale_gradient(frames_BFC, self.conv_gradient_scale)
        frames_BFC = self.post_extract_proj(self.layer_norm(frames_BFC))
        frames_BFC = F.dropout(frames_BFC, self.input_dropout, self.training)
        valid_BF = None
        if num_samples_B is not None:
            valid_BF = is_valid(frame_lengths(num_samples_B), frames_BFC.shape[1])
        hidden, means = self.encoder(frames_BFC, valid_BF, layers, weights_SN, averaged_layers)
        return FrontEndOutput(hidden, valid_BF, means)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def _scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """Return a tensor unchanged, and scale its gradient."""
    scaled: Tensor = _ScaleGradient.apply(tensor, scale)  # type: ignore[no-untyped-call]
    return scaled


def _effective_lengths(waveform_BT: Tensor, num_samples_B: Tensor | None) -> Tensor | None:
    """Move lengths to the waveform's device, each at least one frame long; None if no row is padded."""
    if num_samples_B is None:
        return None
    # Reading lengths on a GPU would synchronise with it; reading them in a compiled graph would break the graph.
    is_readable = num_samples_B.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_readable and bool((num_samples_B == waveform_BT.shape[1]).all()):
        return None
    return num_samples_B.to(waveform_BT.device, non_blocking=True).clamp(min=MIN_NUM_SAMPLES)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        draw_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
