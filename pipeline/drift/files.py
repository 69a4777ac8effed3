"""The files of a comparison: distances for programs, and the page for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.config import to_dict
from pipeline.drift import layout
from pipeline.drift.page import to_page
from pipeline.drift.reference import KEPT
from pipeline.drift.results import Part, Results
from pipeline.drift.sample import Sample
from pipeline.tables import to_parquet

TABLE = pa.schema(
    [
        *((name, pa.string()) for name in ("label", "subject", "distance")),
        *((name, pa.float64()) for name in ("value", "chance", "p_value")),
        ("num_reference", pa.int64()),
        ("num_new", pa.int64()),
    ]
)
"""Columns of the table of distances."""


def to_files(results: Results) -> dict[str, bytes]:
    """Render a comparison: file name → content."""
    return {
        layout.DRIFT_JSON: to_json(results),
        layout.DRIFT_TABLE: to_parquet(pa.Table.from_pylist(list(_rows(results)), TABLE)),
        layout.DRIFT_PAGE: to_page(results).to_html().encode(),
    }


def to_json(results: Results) -> bytes:
    """Write the verdict, settings, warnings, distances, groups and identities."""
    test = results.test
    report = {
        "alarm": results.is_alarm,
        "test": {
            "subject": test.subject,
            "distance": test.measure,
            "p_value": test.p_value,
            "effect": test.effect,
            "by_label": {
                label or "all": {
                    "p_value": p_value,
                    "effect": test.effects[label],
                    "alarm": label in test.alarms,
                }
                for label, p_value in test.p_values.items()
            },
        },
        "settings": to_dict(results.settings),
        "warnings": list(results.warnings),
        "parts": [_part(part) for part in results.parts],
        "recording_changes": [
            {"label": part.label or "all", "subject": each.subject}
            for part, each in results.recording_changes
        ],
        "groups": [vars(group) for group in results.groups],
        "counts": {
            "reference": [count._asdict() for count in results.reference.counts],
            "new": [count._asdict() for count in results.new_counts],
        },
        "reference": _identity(results.reference.sample),
        "new": _identity(results.new),
    }
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _part(part: Part) -> dict[str, Any]:
    return {
        "label": part.label or "all",
        "problem": part.problem,
        "num_available": dict(zip(("reference", "new"), part.num_available, strict=True)),
        "num_compared": dict(zip(("reference", "new"), part.num_compared, strict=True)),
        "clusters": dict(zip(("reference", "new"), map(dict, part.clusters), strict=True)),
        "distances": [each._asdict() for each in part.distances],
        "omitted": list(part.omitted),
        "by_component": list(part.by_component),
    }


def _identity(sample: Sample) -> dict[str, Any]:
    return {
        "system": sample.system,
        "scores": sample.location,
        "layer": sample.layer or None,
        "num_utterances": len(sample),
        **{name: sample.identity.get(name) for name in KEPT},
    }


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    for part in results.parts:
        for each in part.distances:
            yield {
                "label": part.label or "all",
                "subject": each.subject,
                "distance": each.measure,
                "value": each.value,
                "chance": each.chance,
                "p_value": each.p_value,
                "num_reference": part.num_compared[0],
                "num_new": part.num_compared[1],
            }
