"""Averages frames over time."""

from __future__ import annotations

from torch import Tensor

# B: utterances, F: frames of 20 ms, C: channels.


def mean_of_frames(frames_BFC: Tensor, valid_BF: Tensor | None) -> Tensor:
    """Average the valid frames of each utterance: [B, C].

    Args:
        frames_BFC: padded frames may hold arbitrary values.
        valid_BF: True at valid frames; None if no frame is padding.
    """
    if valid_BF is None:
        return frames_BFC.mean(dim=1)
    total_BC = frames_BFC.where(valid_BF[:, :, None], 0.0).sum(dim=1)
    return total_BC / valid_BF.sum(dim=1, keepdim=True)
