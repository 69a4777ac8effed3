"""The validations of a training: their scores, and one HTML page that grows with each validation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.figures import Curve, det_plot
from pipeline.evaluation.formatting import percent
from pipeline.metrics import ClassScores, equal_error_rate, sort_trials
from pipeline.report import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value
from pipeline.report.charts import Line, histogram, line_chart, linear_axis
from pipeline.tracking import Report

EER = "validation/eer"
"""Name of the EER over all utterances; `validation/eer/CORPUS` is the EER of one corpus."""

ALL = "all corpora"
"""Stands for all corpora together where a corpus is named."""

NUM_LARGEST = 7
"""Number of corpora, those with the most utterances, that have a line over the steps and a histogram."""

COLUMNS = pa.schema([("corpus", pa.string()), ("label", pa.string()), ("score", pa.float32())])
"""Columns of a table of scores, one row per utterance."""


@dataclass(frozen=True)
class ValidationScores:
    """The scores of all validation utterances at one step, by corpus."""

    step: int
    by_corpus: Mapping[str, ClassScores]

    @cached_property
    def all(self) -> ClassScores:
        """The scores of all corpora together."""
        parts = self.by_corpus.values()
        return ClassScores(
            np.concatenate([scores.bonafide for scores in parts]),
            np.concatenate([scores.spoof for scores in parts]),
        )

    def eer(self, corpus: str = ALL) -> float | None:
        """Return the equal error rate of a corpus, or of ALL; None if a class is missing."""
        scores = self.all if corpus == ALL else self.by_corpus.get(corpus)
        if scores is None or not (scores.bonafide.size and scores.spoof.size):
            return None
        return equal_error_rate(scores.bonafide, scores.spoof).eer


def to_table(validation: ValidationScores) -> pa.Table:
    """Put the score of each utterance into a row."""
    parts = [
        pa.table({"corpus": [corpus] * values.size, "label": [label] * values.size, "score": values}).cast(
            COLUMNS
        )
        for corpus, scores in validation.by_corpus.items()
        for label, values in zip(("bonafide", "spoof"), scores, strict=True)
    ]
    return pa.concat_tables([COLUMNS.empty_table(), *parts])


def from_table(step: int, table: pa.Table) -> ValidationScores:
    """Read a table that `to_table` made."""
    by_corpus = {}
    for corpus in sorted(pc.unique(table["corpus"]).to_pylist()):
        rows = table.filter(pc.equal(table["corpus"], corpus))
        bonafide, spoof = (
            rows.filter(pc.equal(rows["label"], label))["score"].to_numpy().astype(np.float64)
            for label in ("bonafide", "spoof")
        )
        by_corpus[corpus] = ClassScores(bonafide, spoof)
    return ValidationScores(step, by_corpus)


def eer_history(reports: Iterable[Report]) -> dict[int, dict[str, float]]:
    """Select the EERs from a file of metrics.

    Args:
        reports: what `read_metrics` reads. A resumed training repeats some steps; the later report counts.

    Returns:
        Step → corpus → EER, in the order of steps.
    """
    history: dict[int, dict[str, float]] = {}
    for report in reports:
        eers = {
            name.removeprefix(EER).removeprefix("/") or ALL: value
            for name, value in report.metrics.items()
            if name == EER or name.startswith(f"{EER}/")
        }
        if eers and report.step is not None:
            history[report.step] = eers
    return dict(sorted(history.items()))


def to_page(
    title: str,
    history: Mapping[int, Mapping[str, float]],
    best_step: int,
    shown: Sequence[ValidationScores],
) -> Page:
    """Render the EER over steps, and curves, tables and histograms of a few validations.

    Args:
        title: name of the training.
        history: step → corpus (or ALL) → EER; has at least the steps of `shown`.
        best_step: step with the lowest EER.
        shown: the first, the best and the latest validation, in the order of steps and without repetitions.
    """
    latest = shown[-1]
    corpora = sorted(latest.by_corpus, key=lambda corpus: (-_size(latest.by_corpus[corpus]), corpus))
    names = {validation.step: _name(validation.step, best_step, shown) for validation in shown}
    sections = [
        Section(
            "Error rate",
            [
                _headline(history, best_step, latest),
                _eer_over_steps(history, best_step, corpora),
                _det_figure(ALL, shown, names),
            ],
        ),
        Section("By corpus", [_corpus_table(corpora, shown, names), *_det_figures(corpora, shown, names)]),
        Section(f"Scores at step {latest.step:,}", _histograms(corpora, latest)),
    ]
    subtitle = (
        "Whole utterances of the validation split. A score is the bona fide logit minus the spoof logit; "
        "higher means more bona fide."
    )
    return Page(title, subtitle, sections)


def _size(scores: ClassScores) -> int:
    return scores.bonafide.size + scores.spoof.size


def _name(step: int, best_step: int, shown: Sequence[ValidationScores]) -> str:
    steps = {"first": shown[0].step, "best": best_step, "latest": shown[-1].step}
    return f"step {step:,} ({', '.join(role for role, role_step in steps.items() if role_step == step)})"


def _headline(history: Mapping[int, Mapping[str, float]], best_step: int, latest: ValidationScores) -> Facts:
    num_later = sum(step > best_step for step in history)
    validations = "validation" if num_later == 1 else "validations"
    note = f"no improvement in {num_later} later {validations}" if num_later else "the latest"
    return Facts(
        [
            ("best EER %", percent(history[best_step][ALL]), f"step {best_step:,}, {note}"),
            ("latest EER %", percent(history[latest.step][ALL]), f"step {latest.step:,}"),
            ("bona fide utterances", f"{latest.all.bonafide.size:,}", ""),
            ("spoof utterances", f"{latest.all.spoof.size:,}", ""),
            ("corpora", f"{len(latest.by_corpus):,}", ""),
        ]
    )


def _eer_over_steps(
    history: Mapping[int, Mapping[str, float]], best_step: int, corpora: Sequence[str]
) -> Figure:
    lines = []
    for colour, corpus in enumerate([ALL, *corpora[:NUM_LARGEST]] if len(corpora) > 1 else [ALL], start=1):
        points = [(step, 100 * eers[corpus]) for step, eers in history.items() if corpus in eers]
        if not points:
            continue
        marks = [(float(step), rate, f"{corpus}, step {step:,}: {rate:.2f} %") for step, rate in points]
        steps, rates = [step for step, _ in points], [rate for _, rate in points]
        lines.append(Line(corpus, steps, rates, colour, marks=marks if corpus == ALL else []))
    highest = max(100 * eer for eers in history.values() for eer in eers.values())
    return line_chart(
        f"EER % over steps; best at step {best_step:,}",
        lines,
        linear_axis("step", 0, 1.02 * max(history)),
        linear_axis("EER %", 0, highest * 1.06 or 1.0),
    )


def _det_figure(corpus: str, shown: Sequence[ValidationScores], names: Mapping[int, str]) -> Figure:
    curves = []
    for colour, validation in enumerate(shown, start=1):
        eer = validation.eer(corpus)
        if eer is not None:
            scores = validation.all if corpus == ALL else validation.by_corpus[corpus]
            curves.append(Curve(names[validation.step], colour, sort_trials(*scores), eer))
    return det_plot(corpus, curves)


def _det_figures(
    corpora: Sequence[str], shown: Sequence[ValidationScores], names: Mapping[int, str]
) -> list[Figure]:
    """Draw one plot per corpus with both classes; a single corpus is already in the plot of all corpora."""
    if len(corpora) == 1:
        return []
    return [_det_figure(corpus, shown, names) for corpus in corpora if shown[-1].eer(corpus) is not None]


def _corpus_table(
    corpora: Sequence[str], shown: Sequence[ValidationScores], names: Mapping[int, str]
) -> Table:
    rows: list[list[Value]] = []
    for corpus in [*corpora, ALL] if len(corpora) > 1 else corpora:
        scores = shown[-1].all if corpus == ALL else shown[-1].by_corpus[corpus]
        rates = [validation.eer(corpus) for validation in shown]
        lowest = min((rate for rate in rates if rate is not None), default=None)
        cells = [
            Cell(percent(rate), is_best=len(shown) > 1 and rate is not None and rate == lowest)
            for rate in rates
        ]
        rows.append([corpus, scores.bonafide.size, scores.spoof.size, *cells])
    titles = ["corpus", "bona fide", "spoof", *(names[validation.step] for validation in shown)]
    return Table(titles, rows, "EER %", num_totals=int(len(corpora) > 1))


def _histograms(corpora: Sequence[str], latest: ValidationScores) -> list[Block]:
    panels = [(ALL, latest.all)]
    if len(corpora) > 1:
        panels += [(corpus, latest.by_corpus[corpus]) for corpus in corpora[:NUM_LARGEST]]
    blocks: list[Block] = [
        histogram(corpus, [("bona fide", scores.bonafide, 1), ("spoof", scores.spoof, 2)], "score")
        for corpus, scores in panels
    ]
    if len(corpora) > NUM_LARGEST:
        blocks.append(Text(f"{len(corpora) - NUM_LARGEST} smaller corpora are not shown."))
    return blocks
