"""Columns of text as numbers, so that groups of ten million utterances are found without comparing text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
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

    @property
    def used(self) -> list[str]:
        """The names that utterances have; NOT_STATED comes last, if some have none."""
        counts = np.bincount(self.codes + 1, minlength=len(self.names) + 1)
        names = [name for name, count in zip(self.names, counts[1:], strict=True) if count]
        return [*names, NOT_STATED] if counts[0] else names

    def rows_by_name(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each used name, in ascending order."""
        order = np.argsort(self.codes, kind="stable")
        bounds = np.searchsorted(self.codes[order], np.arange(-1, len(self.names) + 1))
        return {
            name: order[bounds[code + 1] : bounds[code + 2]]
            for name in self.used
            for code in [-1 if name == NOT_STATED else self.names.index(name)]
        }


def encode(texts: pa.ChunkedArray) -> Column:
    """Encode a column of text, which may already be a dictionary."""
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    array = texts.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without rows
        return Column((), np.empty(0, np.int32))
    names = array.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names) + 1, np.int32)
    rank[order], rank[-1] = np.arange(len(names)), -1
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Column([names[i] for i in order], rank[codes])


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
