"""Hand-made results of tracing: systems, new utterances of known and unknown ones, and what was measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.embeddings import ROW_COLUMNS
from pipeline.tracing.likelihood import LikelihoodMap
from pipeline.tracing.results import (
    UNKNOWN,
    Candidate,
    Cascade,
    Confusion,
    Rates,
    Results,
    Settings,
    SystemCount,
    Traced,
    TrialRates,
    Verification,
)

NO_RATES = Rates(None, None, None, None, None, None, None, 0, 0)

IDENTITY: dict[str, Any] = {
    "system": "tiny",
    "weights_digest": "0123456789abcdef",
    "policy": "whole",
    "embeddings": {"layers": ["0", "4"], "per_group": None},
}

CASCADE = Cascade(18, 1, 1, 4, 60, 6, 5, 14, 7)

TRIALS = Verification(
    "trials.csv",
    pa.table({"first": ["a", "b"], "second": ["c", "d"], "score": [0.9, 0.1]}),
    [TrialRates("system", "all", 1, 1, 0.25, 0.75, 0.5)],
    3,
    0,
)


def rates(num_known: int, num_unknown: int) -> Rates:
    """Rates of so many utterances; those that need utterances that do not exist are None."""
    none = NO_RATES._replace(num_known=num_known, num_unknown=num_unknown)
    if not num_known:
        return none
    closed = none._replace(accuracy=0.81, macro_f1=0.8, neighbour_accuracy=0.78, neighbour_macro_f1=0.77)
    return closed._replace(auroc=0.85, eer=0.21, fpr95=0.4) if num_unknown else closed


def example(
    *,
    systems: Sequence[str] = ("bark", "tacotron2", "vits"),
    unknown: Sequence[str] = ("diffusion", "xtts"),
    num_of_each: int = 12,
    num_bonafide: int = 6,
    is_labelled: bool = True,
    is_calibrated: bool = True,
    is_given: bool = False,
    confounding: float | None = 0.1,
    cascade: Cascade | None = None,
    verification: Verification | None = None,
    changes: dict[str, Any] | None = None,
) -> Results:
    """Make results; the first systems of the gallery are traced best.

    Args:
        systems: of the gallery.
        unknown: systems of new utterances that are not in it.
        num_of_each: new utterances of each system.
        num_bonafide: new bona fide utterances.
        is_labelled: whether labels and systems are stated.
        is_calibrated: whether there is a threshold of known systems.
        is_given: whether the layer was given.
        confounding: of the layer that is used.
        cascade: None: the detector has no threshold.
        verification: None: there are no trials.
        changes: fields of Results with other values.
    """
    rng = np.random.default_rng(0)
    truth = [name for name in (*systems, *unknown) for _ in range(num_of_each)] + ["bonafide"] * num_bonafide
    num, num_systems = len(truth), len(systems)
    drawn = rng.normal(0, 0.2, (num, num_systems))
    for row, name in enumerate(truth):
        if name in systems:
            drawn[row, systems.index(name)] += 0.6
    similarities = np.clip(drawn, -1, 1).astype(np.float32)
    similarity = similarities.max(axis=1)
    known_map = LikelihoodMap(20.0, -8.0, 5.0) if is_calibrated else None
    llr = None if known_map is None else known_map.apply(similarity)
    is_known = np.ones(num, bool) if llr is None else llr >= 0
    votes = np.exp(6 * similarities)
    votes = (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32)
    traced = Traced(_rows(truth, is_labelled), similarities, votes, llr, is_known)
    num_known = num_of_each * num_systems if is_labelled else 0
    num_unknown = num_of_each * len(unknown) if is_labelled else 0
    new, gallery = rates(num_known, num_unknown), rates(90, 90)
    counts = {"known": num_known, "unknown": num_unknown, "bonafide": num_bonafide if is_labelled else 0}
    values: dict[str, Any] = {
        "settings": Settings(),
        "gallery": IDENTITY,
        "new": IDENTITY,
        "gallery_location": "/scores/all",
        "new_location": "/scores/new",
        "protocol": "",
        "systems": [SystemCount(name, 30, 5, ["corpus_a", "corpus_b"], False) for name in systems],
        "num_new": counts | {"not_stated": num - sum(counts.values())},
        "candidates": [
            Candidate("0", "centred", gallery._replace(macro_f1=0.7), new, 0.4),
            Candidate("4", "centred", gallery, new, confounding),
            Candidate("4", "whitened", gallery._replace(auroc=None), new, None),
        ],
        "chosen": 1,
        "is_given": is_given,
        "known_map": known_map,
        "known_problem": "" if is_calibrated else "leaving a system out leaves none",
        "known_scores": (rng.normal(0.6, 0.15, 90), rng.normal(0.3, 0.15, 90)),
        "traced": traced,
        "intervals": {"accuracy": (0.72, 0.88), "auroc": (0.79, 0.9)} if num_known and num_unknown else {},
        "confusion": _confusion(traced, systems, unknown) if is_labelled else _confusion(traced, systems, ()),
        "cascade": cascade,
        "verification": verification,
        "num_missing": 0,
        "num_shared_clusters": 0,
        "warnings": (),
    }
    return Results(**values | (changes or {}))


def _rows(truth: Sequence[str], is_labelled: bool) -> pa.Table:
    """The rows of new utterances."""
    num = len(truth)
    nothing = [None] * num
    is_bonafide = [name == "bonafide" for name in truth]
    system = [name if is_labelled and not own else None for name, own in zip(truth, is_bonafide, strict=True)]
    columns: dict[str, Any] = dict.fromkeys(ROW_COLUMNS.names, nothing) | {
        "key": [f"k{row}" for row in range(num)],
        "path": [f"audio/{row}.wav" for row in range(num)],
        "corpus": ["corpus_b"] * num,
        "label": ["bonafide" if own else "spoof" for own in is_bonafide] if is_labelled else nothing,
        "attack": system,
        "score": [2.0 if own else -2.0 for own in is_bonafide],
    }
    table = pa.table({name: pa.array(columns[name], ROW_COLUMNS.field(name).type) for name in columns})
    return table.append_column("system", pa.array(system, pa.string()))


def _confusion(traced: Traced, systems: Sequence[str], unknown: Sequence[str]) -> Confusion:
    truth = traced.rows["system"].to_pylist()
    stated = [name for name in (*systems, *unknown) if name in truth]
    verdicts = [*systems, UNKNOWN]
    counts = np.zeros((len(stated), len(verdicts)), np.int64)
    for name, nearest, is_known in zip(truth, traced.nearest, traced.is_known, strict=True):
        if name is not None:
            counts[stated.index(name), nearest if is_known else len(systems)] += 1
    return Confusion(stated, verdicts, counts)
