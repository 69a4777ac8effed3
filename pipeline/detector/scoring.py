"""Scores waveforms in padded batches, with the same result as one at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.loading.padding import padded_length, plan_padded_batches
from pipeline.detector.details import HEAD, LOGITS_ONLY, SPECTRUM, Details
from pipeline.detector.memory import Inference
from pipeline.detector.network import Detector, DetectorOutput, normalise
from pipeline.detector.precision import HALF_DTYPES, autocast, tf32_policy
from pipeline.detector.spectrum import SPECTRUM_WIDTH, spectral_statistics
from pipeline.detector.variants import EncoderConfig, frame_counts
from pipeline.detector.windows import WindowPolicy
from pipeline.errors import InputError

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True, slots=True)
class Computed:
    """Results for N utterances."""

    logits: NDArray[np.float32]
    """[N, 2] of (spoof, bonafide)."""
    embeddings: list[NDArray[np.float32]]
    """[N, E] for each wanted layer."""
    frames: list[NDArray[np.float32]]
    """If wanted, for each utterance the scores [F] of its frames of 20 ms: bona fide logit − spoof logit."""


def check_details(detector: Detector, wanted: Details) -> dict[str, int]:
    """Check that a detector can compute some details; returns the channels of the embedding of each layer.

    Raises:
        InputError: it has no such layer, or its head does not classify single frames.
    """
    front_end, head = detector.config.front_end, detector.head
    if wanted.frames and not head.has_frame_logits:
        raise InputError(
            f"the head {detector.config.head.name} gives no scores of single frames; leave out --frames, or use a "
            "detector with the head mean_linear"
        )
    known = [HEAD, SPECTRUM, *map(str, range(front_end.num_layers + 1))]
    for layer in wanted.layers:
        if layer not in known:
            raise InputError(
                f"the detector has no layer {layer!r}; give head, spectrum, or a number from 0 to "
                f"{front_end.num_layers}"
            )
    widths = {SPECTRUM: SPECTRUM_WIDTH}
    if HEAD in wanted.layers:  # a head of another project need not have an embedding
        widths[HEAD] = head.embedding_width
    return {layer: widths.get(layer, front_end.width) for layer in wanted.layers}


class Scorer:
    """Scores lists of waveforms with a detector on a device."""

    def __init__(
        self,
        detector: Detector,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        max_seconds: float = 100.0,
        policy: WindowPolicy | None = None,
        memory_bytes: float = float("inf"),
    ) -> None:
        """Move the detector to the device.

        Args:
            detector: used in evaluation mode.
            device: any torch device.
            precision: arithmetic precision of matrix products and convolutions.
            max_seconds: audio in a batch, padding included; a single utterance may be longer.
            policy: whole utterances by default.
            memory_bytes: memory for a forward pass; batches are planned to fit. See `needed_bytes`.

        Raises:
            InputError: the precision is unknown or `max_seconds` is not positive.
        """
        if precision not in ("fp32", "tf32", "bf16"):
            raise InputError(f"unknown precision {precision!r}; known: fp32, tf32, bf16")
        if not max_seconds > 0:
            raise InputError(f"max_seconds is {max_seconds}; it must be positive")
        self.device = torch.device(device)
        self.detector = detector.to(self.device).eval()
        self.precision = precision
        self.max_samples = int(max_seconds * SAMPLE_RATE)
        self.policy = policy or WindowPolicy()
        self.memory_bytes = memory_bytes
        self._inference = Inference(
            detector.config.front_end,
            precision,
            self.device.type,
            has_fused_attention=has_fused_attention(detector.config.front_end, self.device, precision),
            head=detector.config.head,
        )

    def under(self, policy: WindowPolicy) -> Scorer:
        """A scorer with another policy that shares everything else, above all the detector."""
        other = copy.copy(self)
        other.policy = policy
        return other

    def needed_bytes(self, num_samples: int) -> int:
        """Estimate the peak memory of a forward pass over one utterance, or over one of its windows."""
        return self._inference.utterance_bytes(self.policy.longest_window(num_samples))

    def score(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Score waveforms [T] at 16 kHz, not normalised.

        Returns:
            Logits [N, 2] of (spoof, bonafide), in the order of the waveforms.

        Raises:
            ValueError: a waveform is empty or not one-dimensional, or its logits are not finite.
        """
        logits_N2 = self.compute(waveforms).logits
        broken = np.flatnonzero(~np.isfinite(logits_N2).all(axis=1)).tolist()
        if broken:
            raise ValueError(f"the logits of waveforms {broken} are not finite")
        return logits_N2

    def compute(self, waveforms: Sequence[NDArray[np.float32]], wanted: Details = LOGITS_ONLY) -> Computed:
        """Compute logits, which may not be finite, and the wanted details of each waveform [T] at 16 kHz.

        Raises:
            ValueError: a waveform is empty or not one-dimensional.
            InputError: the detector does not have what is wanted; see `check_details`.
        """
        for index, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not len(waveform):
                raise ValueError(f"waveform {index} has shape {waveform.shape}; expected one channel [T]")
        widths = check_details(self.detector, wanted)
        cut = [self.policy.cut(waveform) for waveform in waveforms]
        windows = [window for parts in cut for window in parts]
        batches = plan_padded_batches(
            [len(window) for window in windows],
            self.max_samples,
            lambda num_samples: self._inference.max_utterances(num_samples, self.memory_bytes),
        )
        # Copying to the host after all batches are queued keeps the device from waiting between batches.
        computed = [self._compute_batch([windows[index] for index in batch], wanted) for batch in batches]
        values_WX = np.empty((len(windows), 2 + sum(widths.values())), np.float32)
        frames_W: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(windows)
        for batch, (values_BX, scores_BF) in zip(batches, computed, strict=True):
            values_WX[batch] = values_BX.cpu().numpy()
            if scores_BF is not None:
                for index, scores_F in zip(batch, scores_BF.cpu().numpy(), strict=True):
                    frames_W[index] = scores_F[: frame_counts(len(windows[index]))[-1]].copy()
        ends = np.cumsum([len(parts) for parts in cut], dtype=np.int64)
        values_NX = np.empty((len(waveforms), values_WX.shape[1]), np.float32)
        frames_N = []
        for index, (parts, end) in enumerate(zip(cut, ends, strict=True)):
            begin = end - len(parts)
            values_NX[index] = self.policy.combine(values_WX[begin:end])
            if wanted.frames:
                frames_N.append(self.policy.join_frames(len(waveforms[index]), frames_W[begin:end]))
        logits_N2, *embeddings = np.split(values_NX, np.cumsum([2, *widths.values()])[:-1], axis=1)
        return Computed(logits_N2, embeddings, frames_N)

    def _compute_batch(
        self, windows: Sequence[NDArray[np.float32]], wanted: Details
    ) -> tuple[Tensor, Tensor | None]:
        """Logits and embeddings [B, X] of a batch, and the scores [B, F] of its frames, on the device."""
        num_samples_B = torch.tensor([len(window) for window in windows])
        padded_BT = np.zeros((len(windows), padded_length(int(num_samples_B.max()))), np.float32)
        for row_T, window in zip(padded_BT, windows, strict=True):
            row_T[: len(window)] = window
        with torch.inference_mode(), tf32_policy(self.device, self.precision):
            waveform_BT = normalise(torch.from_numpy(padded_BT).to(self.device), num_samples_B)
            with autocast(self.device, self.precision):
                output: DetectorOutput = self.detector(
                    waveform_BT,
                    num_samples_B,
                    with_frame_logits=wanted.frames,
                    averaged_layers=[int(layer) for layer in wanted.layers if layer.isdecimal()],
                )
            embeddings = dict(zip(filter(str.isdecimal, wanted.layers), output.layer_means, strict=True))
            embeddings[HEAD] = output.embedding
            if SPECTRUM in wanted.layers:
                embeddings[SPECTRUM] = spectral_statistics(waveform_BT, num_samples_B)
            vectors = [embeddings[layer] for layer in wanted.layers]
            values_BX = torch.cat([output.logits.float(), *(vector.float() for vector in vectors)], dim=1)
            if output.frame_logits is None:
                return values_BX, None
            return values_BX, (output.frame_logits[:, :, 1] - output.frame_logits[:, :, 0]).float()


def has_fused_attention(config: EncoderConfig, device: torch.device, precision: Precision) -> bool:
    """Whether attention runs without a matrix of all pairs of frames in memory."""
    if device.type != "cuda":
        return device.type == "cpu"
    dtype = HALF_DTYPES.get(precision, torch.float32)
    query = torch.empty(2, config.num_heads, 8, config.width // config.num_heads, dtype=dtype, device=device)
    mask = torch.ones(2, 1, 1, 8, dtype=torch.bool, device=device)
    parameters = torch.backends.cuda.SDPAParams(query, query, query, mask, 0.0, False, False)
    return torch.backends.cuda.can_use_efficient_attention(parameters)
