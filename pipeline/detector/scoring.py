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
from pipeline.detector.memory import Inference
from pipeline.detector.network import Detector, normalise
from pipeline.detector.precision import HALF_DTYPES, autocast, tf32_policy
from pipeline.detector.variants import EncoderConfig
from pipeline.errors import InputError

Precision = Literal["fp32", "tf32", "bf16"]
Combination = Literal["first", "mean", "max"]
COMBINATIONS: tuple[Combination, ...] = ("first", "mean", "max")


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Which part of an utterance is scored; scores under different policies are not comparable.

    Written as `whole`, or `window:SECONDS:first|mean|max`. Each window is normalised and scored separately. Windows
    do not overlap, except that the last one ends with the utterance. An utterance shorter than a window is one
    window.
    """

    window_s: float | None = None
    """Length in seconds; None: the whole utterance."""
    combination: Combination = "mean"
    """first: only the first window is scored; mean: average of the logits; max: logits of the window with the
    highest score."""

    @classmethod
    def parse(cls, text: str) -> WindowPolicy:
        """Parse a policy in the form that `str()` gives.

        Raises:
            InputError: the text is not a policy.
        """
        if text == "whole":
            return cls()
        remedy = f"unknown window policy {text!r}; known: whole, window:SECONDS:first|mean|max"
        kind, _, rest = text.partition(":")
        seconds, _, combination = rest.partition(":")
        try:
            window_s = float(seconds)
        except ValueError as error:
            raise InputError(remedy) from error
        # One frame needs 25 ms.
        if kind != "window" or not 0.025 <= window_s < float("inf"):
            raise InputError(remedy)
        for known in COMBINATIONS:
            if combination == known:
                return cls(window_s, known)
        raise InputError(remedy)

    def __str__(self) -> str:
        if self.window_s is None:
            return "whole"
        return f"window:{str(self.window_s).removesuffix('.0')}:{self.combination}"

    def cut(self, waveform: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Cut a waveform [T] into the windows to score, without copying."""
        if self.window_s is None:
            return [waveform]
        num_samples = round(self.window_s * SAMPLE_RATE)
        last = len(waveform) - num_samples
        if last <= 0 or self.combination == "first":
            return [waveform[:num_samples]]
        starts = [*range(0, last, num_samples), last]
        return [waveform[start : start + num_samples] for start in starts]

    def longest_window(self, num_samples: int) -> int:
        """The number of samples of the longest window of an utterance."""
        return num_samples if self.window_s is None else min(num_samples, round(self.window_s * SAMPLE_RATE))

    def combine(self, logits_W2: NDArray[np.float32]) -> NDArray[np.float32]:
        """Combine the logits [W, 2] of the windows of an utterance into its logits [2]."""
        if self.combination == "max":
            chosen_2: NDArray[np.float32] = logits_W2[np.argmax(logits_W2[:, 1] - logits_W2[:, 0])]
            return chosen_2
        assert len(logits_W2) == 1 or self.combination == "mean"
        mean_2: NDArray[np.float32] = logits_W2.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean_2


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
        logits_N2 = self.logits(waveforms)
        broken = np.flatnonzero(~np.isfinite(logits_N2).all(axis=1)).tolist()
        if broken:
            raise ValueError(f"the logits of waveforms {broken} are not finite")
        return logits_N2

    def logits(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Compute what `score` returns, without its check that all logits are finite."""
        for index, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not len(waveform):
                raise ValueError(f"waveform {index} has shape {waveform.shape}; expected one channel [T]")
        cut = [self.policy.cut(waveform) for waveform in waveforms]
        windows = [window for parts in cut for window in parts]
        logits_W2 = np.empty((len(windows), 2), np.float32)
        batches = plan_padded_batches(
            [len(window) for window in windows],
            self.max_samples,
            lambda num_samples: self._inference.max_utterances(num_samples, self.memory_bytes),
        )
        # Copying to the host after all batches are queued keeps the device from waiting between batches.
        scored = [self._score_batch([windows[index] for index in batch]) for batch in batches]
        for batch, logits_B2 in zip(batches, scored, strict=True):
            logits_W2[batch] = logits_B2.cpu().numpy()
        ends = np.cumsum([len(parts) for parts in cut], dtype=np.int64)
        logits_N2 = np.empty((len(waveforms), 2), np.float32)
        for index, (parts, end) in enumerate(zip(cut, ends, strict=True)):
            logits_N2[index] = self.policy.combine(logits_W2[end - len(parts) : end])
        return logits_N2

    def _score_batch(self, windows: Sequence[NDArray[np.float32]]) -> Tensor:
        num_samples_B = torch.tensor([len(window) for window in windows])
        padded_BT = np.zeros((len(windows), padded_length(int(num_samples_B.max()))), np.float32)
        for row_T, window in zip(padded_BT, windows, strict=True):
            row_T[: len(window)] = window
        with torch.inference_mode(), tf32_policy(self.device, self.precision):
            waveform_BT = normalise(torch.from_numpy(padded_BT).to(self.device), num_samples_B)
            with autocast(self.device, self.precision):
                logits_B2: Tensor = self.detector(waveform_BT, num_samples_B).logits
        return logits_B2.float()


def has_fused_attention(config: EncoderConfig, device: torch.device, precision: Precision) -> bool:
    """Whether attention runs without a matrix of all pairs of frames in memory."""
    if device.type != "cuda":
        return device.type == "cpu"
    dtype = HALF_DTYPES.get(precision, torch.float32)
    query = torch.empty(2, config.num_heads, 8, config.width // config.num_heads, dtype=dtype, device=device)
    mask = torch.ones(2, 1, 1, 8, dtype=torch.bool, device=device)
    parameters = torch.backends.cuda.SDPAParams(query, query, query, mask, 0.0, False, False)
    return torch.backends.cuda.can_use_efficient_attention(parameters)
