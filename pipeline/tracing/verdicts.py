"""What is said of each new utterance: its most similar systems, the vote of its neighbours, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.tracing.results import UNKNOWN, Results, Traced

# N: new utterances, K: systems of the gallery.

ROLES = {
    "known": "of known systems",
    "unknown": "of unknown systems",
    "bonafide": "bona fide",
    "not_stated": "whose system is not stated",
}
"""What is stated of an utterance → what such utterances are called."""

RANKS = ("nearest", "second", "third")
"""Names of the most similar systems, in order."""

IDENTIFICATION = ("key", "id", "path", "corpus", "label", "attack", "speaker", "split", "score")
"""Columns of ROW_COLUMNS that are in the table of verdicts."""


def threshold(results: Results) -> float | None:
    """The similarity from which an utterance is taken for one of a known system; None if it was not calibrated."""
    known_map = results.known_map
    return None if known_map is None else -known_map.offset / known_map.scale


def roles(results: Results) -> NDArray[np.object_]:
    """[N] the key of ROLES of each new utterance."""
    rows, names = results.traced.rows, {system.name for system in results.systems}
    stated = zip(rows["label"].to_pylist(), rows["system"].to_pylist(), strict=True)
    return np.array([_role(label, system, names) for label, system in stated], object)


def _role(label: str | None, system: str | None, names: set[str]) -> str:
    if system is not None:
        return "known" if system in names else "unknown"
    return "bonafide" if label == "bonafide" else "not_stated"


def verdict_table(results: Results) -> pa.Table:
    """One row per new utterance, in the order of the rows."""
    traced = results.traced
    names = pa.array([system.name for system in results.systems], pa.string())
    columns = {name: traced.rows[name] for name in (*IDENTIFICATION, "system")}
    for rank, (positions_N, similarities_N) in zip(RANKS, _ranked(traced), strict=False):
        columns[rank] = names.take(pa.array(positions_N))
        columns["similarity" if rank == RANKS[0] else f"{rank}_similarity"] = pa.array(similarities_N)
    for rank in RANKS[len(names) :]:
        columns[rank] = pa.nulls(len(traced.rows), pa.string())
        columns[f"{rank}_similarity"] = pa.nulls(len(traced.rows), pa.float32())
    votes_N = np.argmax(traced.votes, axis=1)
    columns["neighbours"] = names.take(pa.array(votes_N))
    columns["neighbours_share"] = pa.array(np.max(traced.votes, axis=1))
    llr = traced.llr
    columns["llr_known"] = pa.nulls(len(traced.rows), pa.float64()) if llr is None else pa.array(llr)
    nearest = names.take(pa.array(traced.nearest)).to_numpy(zero_copy_only=False)
    columns["verdict"] = pa.array(np.where(traced.is_known, nearest, UNKNOWN), pa.string())
    return pa.table(columns)


def _ranked(traced: Traced) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The most similar system of each utterance and its similarity, then the second, as far as there are systems."""
    left_NK = traced.similarities.copy()
    rows_N = np.arange(len(left_NK))
    for _ in RANKS[: left_NK.shape[1]]:
        positions_N = np.argmax(left_NK, axis=1)
        yield positions_N, left_NK[rows_N, positions_N]
        left_NK[rows_N, positions_N] = -np.inf
