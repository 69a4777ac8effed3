"""How well embeddings of bona fide speech show its corpus: what does so may trace the recording, not the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.evaluation.clusters import clusters_of
from pipeline.metrics.components import principal_components
from pipeline.sampling import hash_texts, rank_in_group
from pipeline.tracing.leave_out import NONE, divide, leave_out
from pipeline.tracing.results import SpaceKind
from pipeline.tracing.sample import Sample
from pipeline.tracing.space import MAX_COMPONENTS

MIN_UTTERANCES = 20
"""A corpus with fewer bona fide utterances is left out."""

MAX_UTTERANCES = 2000
"""Of each corpus; of more, some are chosen by hash."""


@dataclass(frozen=True)
class Speech:
    """Bona fide utterances of at least two corpora, or none."""

    samples: Sequence[Sample]
    corpora: NDArray[np.int64]
    """[N] number of the corpus of each utterance."""
    parts: NDArray[np.int64]
    """[N] as `divide` gives them."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Speech:
        """Choose utterances of each corpus that has enough; an utterance counts once."""
        rows = pa.concat_tables([each.rows for each in samples]).select(["key", "path", "corpus", "speaker"])
        names = rows["corpus"].fill_null("").combine_chunks().dictionary_encode()
        codes = names.indices.to_numpy().astype(np.int64)
        is_first = np.zeros(len(codes), bool)
        is_first[np.unique(rows["key"].to_numpy().astype(str), return_index=True)[1]] = True
        rank, _ = rank_in_group(codes, hash_texts(rows["key"])) if codes.size else (codes, codes)
        is_chosen = is_first & (rank < MAX_UTTERANCES)
        sizes = np.bincount(codes[is_chosen], minlength=len(names.dictionary))
        is_stated = np.array([bool(name) for name in names.dictionary.to_pylist()], bool)
        is_large = (sizes >= MIN_UTTERANCES) & is_stated
        if np.count_nonzero(is_large) < 2:
            return cls((), codes[:0], codes[:0])
        is_chosen &= is_large[codes]
        ends = np.cumsum([len(each) for each in samples])[:-1]
        chosen = [each.take(mask) for each, mask in zip(samples, np.split(is_chosen, ends), strict=True)]
        corpora = np.unique(codes[is_chosen], return_inverse=True)[1]
        clusters = clusters_of(rows.filter(pa.array(is_chosen)), "auto").codes
        return cls(chosen, corpora, divide(corpora, clusters))

    def components(self, layer: str) -> NDArray[np.float64]:
        """The principal components of the embeddings of a layer; empty without speech."""
        if not self.samples:
            return np.empty((0, 0))
        vectors = np.concatenate([each.vectors(layer) for each in self.samples])
        return principal_components(vectors, MAX_COMPONENTS).project(vectors)


def confounding_of(speech: Speech, components_ND: NDArray[np.float64], kind: SpaceKind) -> float | None:
    """How well the corpus of left-out speakers is recognised, from 0 (chance) to 1; None without speech of two corpora.

    Args:
        speech: bona fide utterances.
        components_ND: `Speech.components` of a layer.
        kind: of the space.
    """
    if not speech.samples or not components_ND.shape[1]:
        return None
    told = leave_out(components_ND, speech.corpora, speech.parts, kind, num_neighbours=1).nearest
    is_told = told != NONE
    if not is_told.any():
        return None
    true, num_corpora = speech.corpora[is_told], int(speech.corpora.max()) + 1
    right = np.bincount(true[told[is_told] == true], minlength=num_corpora)
    sizes = np.bincount(true, minlength=num_corpora)
    recall = float(np.mean(right[sizes > 0] / sizes[sizes > 0]))
    chance = 1 / num_corpora
    return float(np.clip((recall - chance) / (1 - chance), 0, 1))
