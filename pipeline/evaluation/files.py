"""The files of a report: metrics for programs, and the page for people."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pyarrow.parquet as pq

from pipeline.config import to_dict
from pipeline.evaluation import layout
from pipeline.evaluation.claims import Verdict
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.measure import Measurement
from pipeline.evaluation.page import identity, to_page
from pipeline.evaluation.results import Results, to_table


def to_files(results: Results, verdicts: Sequence[Verdict] = ()) -> dict[str, bytes]:
    """Render the results and the verdicts on claims: file name → content."""
    return {
        layout.METRICS_JSON: to_json(results, verdicts),
        layout.METRICS_TABLE: to_parquet(results),
        layout.REPORT_PAGE: to_page(results, verdicts).to_html().encode(),
    }


def to_json(results: Results, verdicts: Sequence[Verdict]) -> bytes:
    """Write settings, identities of the systems, warnings, metrics, comparisons and verdicts."""
    tree: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for (system, corpus, group, key), measurement in results.measurements.items():
        by_key = tree.setdefault(system, {}).setdefault(corpus, {}).setdefault(group, {})
        by_key[key] = _measurement(measurement)
    report = {
        "settings": to_dict(results.settings),
        "systems": {scores.system: identity(scores) for scores in results.score_sets},
        "warnings": list(results.warnings),
        "metrics": tree,
        "comparisons": [_comparison(comparison) for comparison in results.comparisons],
        "claims": [
            {"claim": verdict.claim.where, "holds": verdict.holds, "text": verdict.text}
            for verdict in verdicts
        ],
    }
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _measurement(measurement: Measurement) -> dict[str, object]:
    intervals = {
        f"{name}_{end}": value
        for name, interval in measurement.intervals.items()
        for end, value in interval._asdict().items()
    }
    if measurement.independent_eer is not None:
        low, high = measurement.independent_eer
        intervals |= {"eer_independent_low": low, "eer_independent_high": high}
    return {
        "num_bonafide": measurement.num_bonafide,
        "num_spoof": measurement.num_spoof,
        **measurement.metrics,
        **intervals,
        "clusters": dict(measurement.clusters),
        "is_different": measurement.is_different,
    }


def _comparison(comparison: Comparison) -> dict[str, object]:
    return {
        "corpus": comparison.corpus,
        "first": comparison.first,
        "second": comparison.second,
        "num_bonafide": comparison.num_bonafide,
        "num_spoof": comparison.num_spoof,
        "num_clusters": comparison.num_clusters,
        "verdict": comparison.in_words(),
        "differences": {
            name: {"value": each.value, **each.interval._asdict(), "p_value": each.p_value}
            for name, each in comparison.differences.items()
        },
        "delong_p_value": None if comparison.auc is None else comparison.auc.p_value,
        "permutation_p_value": comparison.permutation_p_value,
    }


def to_parquet(results: Results) -> bytes:
    """Write all measurements, one row per value."""
    buffer = io.BytesIO()
    pq.write_table(to_table(results.measurements.values()), buffer)
    return buffer.getvalue()
