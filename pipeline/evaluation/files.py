"""The files of a report: metrics for programs, and the page for people."""

import io
import json

import pyarrow.parquet as pq

from pipeline.config import to_dict
from pipeline.evaluation import layout
from pipeline.evaluation.measure import Results, to_table
from pipeline.evaluation.page import identity, to_page


def to_files(results: Results) -> dict[str, bytes]:
    """Render the results: file name → content."""
    return {
        layout.METRICS_JSON: to_json(results),
        layout.METRICS_TABLE: to_parquet(results),
        layout.REPORT_PAGE: to_page(results).to_html().encode(),
    }


def to_json(results: Results) -> bytes:
    """Write settings, identities of the systems, warnings, and metrics by system, corpus, group and key."""
    tree: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for (system, corpus, group, key), measurement in results.measurements.items():
        counts = {"num_bonafide": measurement.num_bonafide, "num_spoof": measurement.num_spoof}
        by_key = tree.setdefault(system, {}).setdefault(corpus, {}).setdefault(group, {})
        by_key[key] = {**counts, **measurement.metrics}
    report = {
        "settings": to_dict(results.settings),
        "systems": {scores.system: identity(scores) for scores in results.score_sets},
        "warnings": list(results.warnings),
        "metrics": tree,
    }
    return json.dumps(report, indent=2, ensure_ascii=False).encode()


def to_parquet(results: Results) -> bytes:
    """Write all measurements, one row per value."""
    buffer = io.BytesIO()
    pq.write_table(to_table(results.measurements.values()), buffer)
    return buffer.getvalue()
