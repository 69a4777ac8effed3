"""Which part of an utterance is scored, and how the results of several windows become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.variants import HOP_SAMPLES, frame_counts
from pipeline.errors import InputError

Combination = Literal["first", "mean", "max"]
COMBINATIONS: tuple[Combination, ...] = ("first", "mean", "max")

# W: windows, F: frames of 20 ms, X: logits and channels of embeddings.


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

    def combine(self, values_WX: NDArray[np.float32]) -> NDArray[np.float32]:
        """Combine the logits and embeddings [W, X] of the windows of an utterance into its own [X].

        The first two columns are the logits of spoof and bona fide, which decide under `max`.
        """
        if self.combination == "max":
            chosen_X: NDArray[np.float32] = values_WX[np.argmax(values_WX[:, 1] - values_WX[:, 0])]
            return chosen_X
        assert len(values_WX) == 1 or self.combination == "mean"
        mean_X: NDArray[np.float32] = values_WX.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean_X

    def join_frames(self, num_samples: int, frames: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Join the frames [F] of the windows of an utterance into one frame for each 20 ms of it.

        A window of 4 s has 199 frames, because the last one needs 25 ms; so at its end the last frame is repeated once.
        Where the last window overlaps the one before, the earlier one counts.

        Args:
            num_samples: length of the utterance.
            frames: the frames of each window.

        Returns:
            As many frames as the utterance has in one piece; under `first`, those of the first window only.
        """
        if len(frames) == 1:
            return frames[0]
        assert self.window_s is not None
        window_samples = round(self.window_s * SAMPLE_RATE)
        starts_F = HOP_SAMPLES * np.arange(frame_counts(num_samples)[-1])
        window_F = np.minimum(starts_F // window_samples, len(frames) - 1)
        window_start_F = np.minimum(window_F * window_samples, num_samples - window_samples)
        offsets_W = np.cumsum([0, *map(len, frames[:-1])])
        last_W = np.array([len(each) - 1 for each in frames])
        frame_F = np.minimum(
            np.rint((starts_F - window_start_F) / HOP_SAMPLES).astype(np.int64), last_W[window_F]
        )
        joined_F: NDArray[np.float32] = np.concatenate(frames)[offsets_W[window_F] + frame_F]
        return joined_F
