"""The section of a report that shows error rates beside those of the paper about the same front ends."""

from __future__ import annotations

from pipeline.evaluation.cells import eer_span
from pipeline.evaluation.claims import load_claims
from pipeline.evaluation.formatting import percent
from pipeline.evaluation.results import Results
from pipeline.report import Block, Cell, Section, Table, Text, Value

PAPER = "antideepfake"
"""Name of the claims with the published rates."""

WITHOUT_RAWBOOST = "_nda"
"""Suffix of the name of a published system that was trained without RawBoost."""


def published_section(results: Results) -> list[Section]:
    """Show the EERs of systems beside those that the paper publishes for their front end; nothing if there are none."""
    published = {(claim.system, claim.corpus): claim.published for claim in load_claims(PAPER)}
    rows: list[list[Value]] = []
    for corpus in results.corpora:
        pairs = zip(results.score_sets, results.by_system(corpus), strict=True)
        for scores, measurement in pairs:
            variant = str(scores.identity.get("variant"))
            eer = measurement.metrics["eer"] if measurement else None
            if measurement is None or eer is None or (variant, corpus) not in published:
                continue
            rates = [published[f"{variant}{suffix}", corpus] for suffix in (WITHOUT_RAWBOOST, "")]
            cells = [Cell(percent(eer), eer_span(measurement)), *(Cell(percent(rate)) for rate in rates)]
            rows.append([corpus, scores.system, variant, str(scores.identity.get("policy")), *cells])
    if not rows:
        return []
    columns = [
        "corpus",
        "system",
        "front end",
        "window",
        "EER %",
        "paper, without RawBoost",
        "paper, with RawBoost",
    ]
    blocks: list[Block] = [
        Table(columns, rows),
        Text(
            "AntiDeepfake (arXiv 2506.21090) post-trained the same front ends, and scored whole utterances at full "
            "precision without training on these corpora. Its rates have no intervals; another window, decoder or "
            "precision changes a rate as well."
        ),
    ]
    return [Section("Beside the paper", blocks)]
