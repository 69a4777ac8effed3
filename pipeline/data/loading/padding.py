"""Cut utterances into padded batches, for validation and for scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def plan_padded_batches(
    num_samples: Sequence[int] | NDArray[np.integer],
    max_samples: int,
    max_utterances: Callable[[int], int] | None = None,
) -> list[NDArray[np.int64]]:
    """Group utterances of similar length, longest first, so that no padded batch exceeds `max_samples`.

    An utterance that is longer than that gets a batch of its own.

    Args:
        num_samples: [N] Length of each utterance.
        max_samples: Upper bound of a batch: number of utterances times the length of the longest.
        max_utterances: Further bound: the number of utterances of a length that fit into memory, at least 1.

    Returns:
        The positions in `num_samples` that form each batch; equal lengths keep their order.
    """
    lengths = np.asarray(num_samples, np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches = []
    begin = 0
    while begin < len(order):
        longest = max(1, int(lengths[order[begin]]))
        size = max(1, max_samples // longest)
        if max_utterances is not None and size > 1:
            size = min(size, max_utterances(longest))
        batches.append(order[begin : begin + size])
        begin += len(batches[-1])
    return batches
