"""Columns of text as numbers, so that groups of ten million utterances are found without comparing text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NOT_STATED = "(not stated)"
"""Replaces a missing corpus, attack, artifact, language …"""

DURATION_EDGES_S = (2.0, 4.0, 8.0, 16.0)
"""Ends of the duration bins, in seconds."""


class Column(NamedTuple):
    """A text for each utterance."""

    names: Sequence[str]
    """[num_names] the distinct texts, in alphabetical order, or in order of size."""
    codes: NDArray[np.int32]
    """[N] position in `names`; −1 if the utterance has none."""

    def take(self, rows: NDArray[np.int64]) -> Column:
        """Select rows."""
        return Column(self.names, self.codes[rows])

    def rows_by_name(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each name that has any, in ascending order; NOT_STATED comes last."""
        # A stable sort of small integers takes time in proportion to their number.
        small = np.int16 if len(self.names) < np.iinfo(np.int16).max else np.int32
        order = np.argsort(self.codes.astype(small), kind="stable")
        bounds = np.concatenate(([0], np.cumsum(np.bincount(self.codes + 1, minlength=len(self.names) + 1))))
        rows = [order[begin:end] for begin, end in itertools.pairwise(bounds)]
        named = {name: each for name, each in zip(self.names, rows[1:], strict=True) if each.size}
        return named | {NOT_STATED: rows[0]} if rows[0].size else named


def encode(texts: pa.ChunkedArray) -> Column:
    """Encode a column of text, which may already be a dictionary."""
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    array = texts.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without rows
        return Column((), np.empty(0, np.int32))
    order = pc.sort_indices(array.dictionary)
    rank = np.empty(len(order) + 1, np.int32)
    rank[order.to_numpy()], rank[-1] = np.arange(len(order)), -1
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Column(array.dictionary.take(order).to_pylist(), rank[codes])


def encode_durations(seconds: NDArray[np.float32]) -> Column:
    """Put durations into bins; nan has none."""
    edges = [f"{edge:g}" for edge in DURATION_EDGES_S]
    starts = ["0", *edges]
    names = [
        *(f"{low}–{high} s" for low, high in zip(starts, edges, strict=False)),
        f"{edges[-1]} s and more",
    ]
    codes = np.searchsorted(DURATION_EDGES_S, seconds, side="right").astype(np.int32)
    codes[np.isnan(seconds)] = -1
    return Column(names, codes)


def encode_numbers(numbers: NDArray[np.float64], unit: str) -> Column:
    """Encode numbers, in order of size; nan has none."""
    is_known = ~np.isnan(numbers)
    values, inverse = np.unique(numbers[is_known], return_inverse=True)
    codes = np.full(numbers.size, -1, np.int32)
    codes[is_known] = inverse
    return Column([f"{value:,g} {unit}" for value in values], codes)
