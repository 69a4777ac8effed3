"""The files of traced utterances: tables and JSON for programs, and the page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import to_dict
from pipeline.tables import to_parquet
from pipeline.tracing import layout
from pipeline.tracing.page import headline, to_page
from pipeline.tracing.results import Candidate, Confusion, Results
from pipeline.tracing.sections import KEPT
from pipeline.tracing.verdicts import threshold, verdict_table

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Quantiles of the similarities in the gallery that the JSON file states."""


def to_files(results: Results) -> dict[str, bytes]:
    """Render traced utterances: file name → content."""
    files = {
        layout.TRACE_JSON: to_json(results),
        layout.TRACE_TABLE: to_parquet(verdict_table(results)),
        layout.TRACE_PAGE: to_page(results).to_html().encode(),
    }
    if results.verification is not None:
        files[layout.TRIALS_TABLE] = to_parquet(results.verification.rows)
    return files


def to_json(results: Results) -> bytes:
    """Write rates, settings, warnings, systems, candidates, confusions, cascade, trials and identities."""
    known, left_out = results.known_scores
    report = {
        "headline": headline(results),
        "settings": to_dict(results.settings),
        "warnings": list(results.warnings),
        "protocol": results.protocol or None,
        "systems": [{**system._asdict(), "corpora": list(system.corpora)} for system in results.systems],
        "num_new": dict(results.num_new),
        "num_missing": results.num_missing,
        "num_shared_clusters": results.num_shared_clusters,
        "chosen": {**_candidate(results.best), "is_given": results.is_given},
        "intervals": {name: list(interval) for name, interval in results.intervals.items()},
        "candidates": [_candidate(each) for each in results.candidates],
        "known": {
            "map": None if results.known_map is None else results.known_map._asdict(),
            "threshold": threshold(results),
            "problem": results.known_problem or None,
            "in_gallery": _distribution(known),
            "left_out": _distribution(left_out),
        },
        "confusions": _confusions(results.confusion),
        "cascade": None if results.cascade is None else results.cascade._asdict(),
        "trials": _trials(results),
        "gallery": _identity(results.gallery, results.gallery_location),
        "new": _identity(results.new, results.new_location),
    }
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "layer": candidate.layer,
        "space": candidate.space,
        "quality": candidate.quality,
        "confounding": candidate.confounding,
        "gallery": candidate.gallery._asdict(),
        "new": candidate.new._asdict(),
    }


def _distribution(similarities: NDArray[np.float64]) -> dict[str, Any]:
    """The number of similarities and their quantiles, none if there are no similarities."""
    quantiles = np.quantile(similarities, QUANTILES).tolist() if similarities.size else []
    return {
        "num": int(similarities.size),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=False)),
    }


def _confusions(confusion: Confusion) -> list[dict[str, Any]]:
    """Every pair of a true system and a verdict that occurs."""
    return [
        {
            "system": confusion.systems[row],
            "verdict": confusion.verdicts[column],
            "num": int(confusion.counts[row, column]),
        }
        for row, column in np.argwhere(confusion.counts).tolist()
    ]


def _trials(results: Results) -> dict[str, Any] | None:
    verification = results.verification
    if verification is None:
        return None
    return {
        "source": verification.source,
        "num_trials": len(verification.rows),
        "num_missing": verification.num_missing,
        "rates": [each._asdict() for each in verification.rates],
    }


def _identity(identity: Mapping[str, Any], location: str) -> dict[str, Any]:
    return {"scores": location, **{name: identity.get(name) for name in KEPT}}
