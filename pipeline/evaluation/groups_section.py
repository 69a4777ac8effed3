"""The section of a report about groups of utterances: attacks, languages, durations, codecs …"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation import layout
from pipeline.evaluation.cells import eer_cells
from pipeline.evaluation.columns import NOT_STATED
from pipeline.evaluation.measure import AGAINST_ALL_BONAFIDE, Measurement
from pipeline.evaluation.results import Results
from pipeline.evaluation.utterances import GROUPS
from pipeline.report import Block, Section, Table, Text, Value

GROUP_TITLES = {"seconds": "duration", "sample_rate": "sample rate"}
"""Groups whose column has another name."""

NUM_HARDEST = 60
"""Maximum number of rows of a breakdown; `layout.METRICS_TABLE` has all of them."""


def groups_section(results: Results) -> Section:
    """Show the EERs of all groups of each corpus, the hardest first."""
    settings = results.settings
    blocks: list[Block] = [
        Text(
            "Each attack and artifact is measured against all bona fide utterances of its corpus, every other group "
            f"against its own bona fide utterances. A group with fewer than {settings.min_group} utterances of a class "
            "shows only their number. The hardest comes first. Marked rates differ from that of the corpus by more "
            "than chance; of all marks, at most 5 % are expected to be wrong."
        )
    ]
    for corpus in results.corpora:
        unstated, constant = [], []
        for group in GROUPS:
            keys = results.keys(corpus, group)
            title = GROUP_TITLES.get(group, group)
            if set(keys) <= {NOT_STATED}:
                unstated.append(title)
            elif len(keys) == 1:
                constant.append(f"{title} ({keys[0]})")
            else:
                blocks += _group(results, corpus, group)
        if constant:
            blocks.append(Text(f"{corpus} has only one {', one '.join(constant)}."))
        if unstated:
            blocks.append(Text(f"{corpus} does not state, or not often enough: {', '.join(unstated)}."))
    return Section("Groups", blocks)


def _group(results: Results, corpus: str, group: str) -> list[Block]:
    by_key = {key: results.by_system(corpus, group, key) for key in results.keys(corpus, group)}
    hardest_first = sorted(by_key, key=lambda key: _ease(by_key[key]))
    rows: list[list[Value]] = []
    for key in hardest_first[:NUM_HARDEST]:
        scored = [each for each in by_key[key] if each is not None]
        counts = (max(each.num_bonafide for each in scored), max(each.num_spoof for each in scored))
        shown = counts if group not in AGAINST_ALL_BONAFIDE else counts[1:]
        rows.append([key, *shown, *eer_cells(by_key[key], has_bar=True)])
    counted = ["bona fide", "spoof"] if group not in AGAINST_ALL_BONAFIDE else ["spoof"]
    title = GROUP_TITLES.get(group, group)
    table = Table([title, *counted, *results.systems], rows, f"{corpus}: EER % by {title}")
    num_hidden = len(hardest_first) - NUM_HARDEST
    if num_hidden <= 0:
        return [table]
    return [table, Text(f"{num_hidden} easier rows are omitted; {layout.METRICS_TABLE} has all of them.")]


def _ease(measurements: Sequence[Measurement | None]) -> float:
    """Return the negative mean EER over systems, as a sort key; 1 if there is no EER."""
    rates = [each.metrics["eer"] for each in measurements if each is not None]
    known = [rate for rate in rates if rate is not None]
    return -sum(known) / len(known) if known else 1.0
