"""Cut utterances into padded batches, and choose the padded length, for validation and for scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LENGTH_STEP = 1_600
"""Padded lengths are multiples of this (0.1 s). oneDNN compiles kernels for each new length of a batch, which takes
longer than a small detector takes to score 10 s of audio."""


def plan_padded_batches(
    num_samples: Sequence[int] | NDArray[np.integer],
    max_samples: int,
    max_utterances: Callable[[int], int] | None = None,
) -> list[NDArray[np.int64]]:
    """Group utterances of similar length, longest first, so that no padded batch exceeds `max_samples`.

    An utterance that is longer than that gets a batch of its own. Lengths are padded with `padded_length`.

    Args:
        num_samples: [N] Length of each utterance.
        max_samples: Upper bound of a batch: number of utterances times the padded length of the longest.
        max_utterances: Further bound: the number of utterances of a padded length that fit into memory, at least 1.

    Returns:
        The positions in `num_samples` that form each batch; equal lengths keep their order.
    """
    lengths = np.asarray(num_samples, np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches = []
    begin = 0
    while begin < len(order):
        longest = padded_length(max(1, int(lengths[order[begin]])))
        size = max(1, max_samples // longest)
        if max_utterances is not None and size > 1:
            size = min(size, max_utterances(longest))
        batches.append(order[begin : begin + size])
        begin += len(batches[-1])
    return batches


def padded_length(num_samples: int) -> int:
    """Round a length up to a multiple of `LENGTH_STEP`."""
    return -(-num_samples // LENGTH_STEP) * LENGTH_STEP
