"""The sections of a page about tracing that show single utterances: confusions, similarities, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import linear_axis, step_chart
from pipeline.tracing import layout
from pipeline.tracing.results import UNKNOWN, Results
from pipeline.tracing.verdicts import RANKS, ROLES, roles, threshold, verdict_table

MAX_MATRIX = 40
"""With more systems, a matrix is too wide to be read, and confusions are listed."""

TITLE_ENDS = (8, 17)
"""Characters at the start and at the end of a long name that the title of a column shows."""

NUM_CONFUSIONS, NUM_EXAMPLES, NUM_BINS = 40, 10, 40

COLOURS = {"known": 1, "unknown": 2, "bonafide": 3, "not_stated": 8}
"""Key of ROLES → colour of its distribution."""

SIMILARITIES = (
    "The similarity is the cosine, −1 to 1, of an utterance and the mean of the system that is nearest to it. In the "
    "gallery, utterances of known systems are compared without those of their speaker, and those of a system that is "
    "left out with the other systems. If the new distributions are left of those of the gallery, the new speech "
    "differs from it, and known systems are called unknown. {threshold}"
)


def confusion_section(results: Results) -> list[Section]:
    """Show how often each true system is given each verdict; nothing if no system is stated."""
    confusion = results.confusion
    if not len(confusion.systems):
        return []
    if max(len(confusion.systems), len(confusion.verdicts)) > MAX_MATRIX:
        return [Section("Confusions", _confusions(results))]
    text = (
        "A row is a true system, a column a verdict; the stronger the colour, the larger is the share of the row. "
        "Right verdicts are bold: the system itself, or “unknown” for a system that is not in the gallery."
    )
    return [Section("Confusions", [_matrix(results), Text(text)])]


def _matrix(results: Results) -> Table:
    confusion = results.confusion
    rows: list[list[Value]] = []
    for system, counts_V in zip(confusion.systems, confusion.counts, strict=True):
        total, right = int(counts_V.sum()), _right(system, confusion.verdicts)
        rows.append(
            [
                system if right != UNKNOWN else f"{system} (unknown)",
                total,
                *(
                    Cell(
                        f"{count:,}" if count else "·", shade=count / max(total, 1), is_best=verdict == right
                    )
                    for verdict, count in zip(confusion.verdicts, counts_V.tolist(), strict=True)
                ),
            ]
        )
    columns = ["true system", "utterances", *(_shortened(verdict) for verdict in confusion.verdicts)]
    return Table(columns, rows, is_matrix=True)


def _shortened(name: str) -> str:
    """Leave out the middle of a long name; the rows of a matrix have the whole names."""
    start, end = TITLE_ENDS
    return name if len(name) <= start + 1 + end else f"{name[:start]}…{name[-end:]}"


def _right(system: str, verdicts: Sequence[str]) -> str:
    """The right verdict on utterances of a system."""
    return system if system in verdicts else UNKNOWN


def _confusions(results: Results) -> list[Block]:
    confusion = results.confusion
    counts = confusion.counts.copy()
    totals_R = counts.sum(axis=1)
    verdicts = {verdict: column for column, verdict in enumerate(confusion.verdicts)}
    for row, system in enumerate(confusion.systems):
        counts[row, verdicts[_right(system, confusion.verdicts)]] = 0
    order = np.argsort(-counts, axis=None, kind="stable")
    wrong = [divmod(int(cell), counts.shape[1]) for cell in order if counts.flat[cell]]
    rows: list[list[Value]] = []
    for row, column in wrong[:NUM_CONFUSIONS]:
        share = counts[row, column] / totals_R[row]
        is_known = confusion.systems[row] in verdicts
        rows.append(
            [
                confusion.systems[row],
                "yes" if is_known else "no",
                confusion.verdicts[column],
                Cell(f"{counts[row, column]:,}", f"{100 * share:.1f} %", share),
            ]
        )
    if not rows:
        return [Text("There are none.")]
    text = (
        f"The most frequent of {len(wrong):,} confusions; {layout.TRACE_JSON} has all of them. "
        if len(wrong) > NUM_CONFUSIONS
        else ""
    )
    return [
        Table(["true system", "known", "verdict", "utterances"], rows),
        Text(f"{text}The share is that of all utterances of the true system."),
    ]


def similarities_section(results: Results) -> Section:
    """Show how similar utterances are to the nearest system, in the gallery and new ones."""
    similarity_N = results.traced.similarities.max(axis=1).astype(np.float64)
    role_N = roles(results)
    gallery = dict(zip(("system in the gallery", "system left out"), results.known_scores, strict=True))
    new = {role: similarity_N[role_N == role] for role in ROLES}
    series = [
        (name, values, COLOURS[role]) for (name, values), role in zip(gallery.items(), COLOURS, strict=False)
    ]
    new_series = [(ROLES[role], values, COLOURS[role]) for role, values in new.items()]
    everything = np.concatenate([values for _, values, _ in (*series, *new_series)])
    limit = threshold(results)
    low, high = np.quantile(everything, (0.001, 0.999)).tolist() if everything.size else (-1.0, 1.0)
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    edges = np.linspace(max(-1.0, low - 0.02), min(1.0, high + 0.02), NUM_BINS + 1)
    figures = [
        _distributions(title, each, edges, limit)
        for title, each in (("In the gallery", series), ("New utterances", new_series))
    ]
    note = (
        "Nothing is called unknown, because there is no threshold."
        if limit is None
        else f"From {limit:.3f}, the dashed line, an utterance is taken for one of a known system."
    )
    return Section("Similarities", [*figures, Text(SIMILARITIES.format(threshold=note))])


def _distributions(
    title: str,
    series: Sequence[tuple[str, NDArray[np.float64], int]],
    edges: NDArray[np.float64],
    limit: float | None,
) -> Figure:
    densities = [
        (
            f"{name} ({values.size:,})",
            np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / (values.size * np.diff(edges)),
            index,
        )
        for name, values, index in series
        if values.size
    ]
    x = linear_axis("similarity to the nearest system", float(edges[0]), float(edges[-1]))
    verticals = [] if limit is None else [(limit, f"threshold {limit:.3f}")]
    return step_chart(title, edges, densities, x, "density", verticals)


def examples_section(results: Results) -> Section:
    """Show the most confident and the most doubtful utterances: those whose system is not stated, if there are any."""
    table, is_unstated_N = verdict_table(results), roles(results) == "not_stated"
    has_unstated = bool(is_unstated_N.any())
    positions = np.flatnonzero(is_unstated_N) if has_unstated else np.arange(len(is_unstated_N))
    similarity_N, second_N = (
        table[name].to_numpy().astype(np.float64) for name in ("similarity", "second_similarity")
    )
    llr_N = results.traced.llr
    doubt, doubt_N = (
        ("the smallest difference between the two nearest systems", similarity_N - second_N)
        if llr_N is None
        else (
            "the likelihood ratio that is nearest to 0, where known and unknown are as likely",
            np.abs(llr_N),
        )
    )
    columns = ["utterance", *(() if has_unstated else ("true system",)), "verdict"]
    columns += [*(() if llr_N is None else ("LLR of known",)), *RANKS[: len(results.systems)], "neighbours"]
    tables = []
    for caption, keys in (("The most confident", -similarity_N), ("The most doubtful", doubt_N)):
        chosen = positions[np.argsort(keys[positions], kind="stable")][:NUM_EXAMPLES]
        rows = [_example(row, columns) for row in table.take(pa.array(chosen, pa.int64())).to_pylist()]
        tables.append(Table(columns, rows, caption))
    whose = "utterances whose system is not stated" if has_unstated else "new utterances"
    text = (
        f"Of {positions.size:,} {whose}: those with the highest similarity to a system, and those with {doubt}. The "
        "number after a system is its cosine, and that after the neighbours the share of them that are of this system. "
        f"{layout.TRACE_TABLE} has all utterances."
    )
    return Section("Most confident and most doubtful", [*tables, Text(text)])


def _example(row: Mapping[str, Any], columns: Sequence[str]) -> list[Value]:
    cells: dict[str, Value] = {
        "utterance": row["id"] or row["path"] or row["key"],
        "true system": row["system"] or ("bona fide" if row["label"] == "bonafide" else None),
        "verdict": Cell(row["verdict"], is_warning=row["verdict"] == UNKNOWN, is_word=True),
        "neighbours": Cell(row["neighbours"], f"{100 * row['neighbours_share']:.0f}\u00a0%", is_word=True),
        # Adding 0 turns −0 into 0.
        "LLR of known": None if row["llr_known"] is None else Cell(f"{round(row['llr_known'], 2) + 0.0:.2f}"),
    }
    for rank in RANKS:
        if row[rank] is not None:
            similarity = row["similarity" if rank == RANKS[0] else f"{rank}_similarity"]
            cells[rank] = Cell(row[rank], f"{similarity:.3f}", is_word=True)
    return [cells[column] for column in columns]
