"""The validations of a training: their scores, and one HTML page that grows with each validation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.evaluation.figures import Curve, det_plot
from pipeline.evaluation.formatting import percent
from pipeline.metrics import sort_trials
from pipeline.metrics.grouped import (
    METRIC_NAMES,
    SELECTION_LABELS,
    ErrorRates,
    Group,
    GroupedScores,
    Selection,
    group_scores,
)
from pipeline.report import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value
from pipeline.report.charts import Line, histogram, line_chart, linear_axis
from pipeline.tracking import Report

ALL = "all corpora"
"""Stands for all corpora together where a corpus is named."""

NAMES: Mapping[Selection, str] = {**SELECTION_LABELS, "pooled": ALL}
"""The rates that can select the best weights, as the page names them; a corpus has no blanks in its name."""

PREFIXES = {"raw": "validation/", "ema": "validation/ema/"}
"""What the metrics of the weights and of their average (EMA) begin with."""

MEANS = {METRIC_NAMES[which]: name for which, name in NAMES.items()}
"""Metric after its prefix → name of the rate; `eer/CORPUS` is the rate of one corpus."""

NUM_LARGEST = 7
"""Number of corpora, those with the most utterances, that have a line over the steps and a histogram."""

NUM_HARDEST = 20
"""Number of attacks, those with the highest error rates, that have a row."""

COLUMNS = pa.schema(
    [
        ("corpus", pa.string()),
        ("attack", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("weights", pa.string()),
    ]
)
"""Columns of a table of scores, one row per utterance. `attack` is empty for bona fide speech, and `weights` is raw, or
ema for the average of the weights."""

FRAME_EER = "frame_eer"
"""Key of the metadata of such a table."""

Rates = Mapping[str, float]
"""Corpus, or one of `NAMES` → EER."""

History = Mapping[int, Mapping[str, Rates]]
"""Step → raw or ema → rates."""


@dataclass(frozen=True)
class ValidationScores:
    """The scores of all validation utterances at one step."""

    step: int
    scores: GroupedScores
    weights: str = "raw"
    """Which weights have these scores: raw, or ema; the better of the two."""
    frame_eer: float | None = None
    """EER of the labelled frames, whose scores are not kept; None without labels of both classes."""

    @property
    def rates(self) -> dict[str, float]:
        """The error rates by the names of the page."""
        rates = replace(self.scores.error_rates, frames=self.frame_eer)
        return {NAMES[which]: rate for which, rate in rates.by_selection.items()} | dict(rates.corpora)


def to_table(validation: ValidationScores) -> pa.Table:
    """Put the score of each utterance into a row; the EER of frames goes into the metadata of the schema."""
    groups = validation.scores.by_group
    sizes = [scores.size for scores in groups.values()]
    numbers = np.repeat(np.arange(len(groups)), sizes)

    def column(values: Sequence[str]) -> pa.Array:
        return pa.array(values, pa.string()).take(pa.array(numbers))

    columns = [
        column([group.corpus for group in groups]),
        column([group.attack for group in groups]),
        column(["spoof" if group.attack else "bonafide" for group in groups]),
        pa.array(np.concatenate([np.empty(0), *groups.values()]), pa.float32()),
        column([validation.weights] * len(groups)),
    ]
    table = pa.Table.from_arrays(columns, schema=COLUMNS)
    if validation.frame_eer is None:
        return table
    return table.replace_schema_metadata({FRAME_EER: repr(validation.frame_eer)})


def from_table(step: int, table: pa.Table) -> ValidationScores:
    """Read a table that `to_table` made."""
    corpus, attack = (table[name].combine_chunks().dictionary_encode() for name in ("corpus", "attack"))
    num_attacks = len(attack.dictionary)
    keys = corpus.indices.to_numpy().astype(np.int64) * num_attacks + attack.indices.to_numpy()
    present, numbers = np.unique(keys, return_inverse=True)
    corpora, attacks = corpus.dictionary.to_pylist(), attack.dictionary.to_pylist()
    groups = [Group(corpora[key // num_attacks], attacks[key % num_attacks]) for key in present.tolist()]
    scores = group_scores(groups, numbers, table["score"].to_numpy().astype(np.float64))
    frame_eer = (table.schema.metadata or {}).get(FRAME_EER.encode())
    return ValidationScores(
        step, scores, table["weights"][0].as_py(), None if frame_eer is None else float(frame_eer)
    )


def eer_history(reports: Iterable[Report]) -> dict[int, dict[str, dict[str, float]]]:
    """Select the error rates from a file of metrics.

    Args:
        reports: what `read_metrics` reads. A resumed training repeats some steps; the later report counts.

    Returns:
        Step → raw or ema → corpus or name of a mean → EER, in the order of steps.
    """
    history = {}
    for report in reports:
        rates = {weights: _rates_of(report.metrics, prefix) for weights, prefix in PREFIXES.items()}
        if rates["raw"] and report.step is not None:
            history[report.step] = {weights: each for weights, each in rates.items() if each}
    return dict(sorted(history.items()))


def _rates_of(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    names = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {
        MEANS.get(name) or name.removeprefix("eer/"): value
        for name, value in names.items()
        if name in MEANS or name.startswith("eer/")
    }


def to_page(
    title: str, history: History, best_step: int, shown: Sequence[ValidationScores], select_by: Selection
) -> Page:
    """Render the error rates over steps, and curves, tables and histograms of a few validations.

    Args:
        title: name of the training.
        history: has at least the steps of `shown`.
        best_step: step with the best weights.
        shown: the first, the best and the latest validation, in the order of steps and without repetitions.
        select_by: the error rate that decides which weights are the best.
    """
    latest = shown[-1].scores
    corpora = sorted(latest.by_corpus, key=lambda corpus: (-_size(latest, corpus), corpus))
    names = {validation.step: _name(validation, best_step, shown) for validation in shown}
    sections = [
        Section(
            "Error rate",
            [
                _headline(history, best_step, shown, select_by),
                _rates_over_steps(history, best_step),
                _det_figure(ALL, shown, names),
            ],
        ),
        Section(
            "By corpus",
            [
                _corpus_table(corpora, shown, names),
                *_corpora_over_steps(history, corpora, select_by),
                *_det_figures(corpora, shown, names),
            ],
        ),
        Section("By attack", [_attack_table(shown, names)]),
        Section(f"Scores at step {shown[-1].step:,}", _histograms(corpora, latest)),
    ]
    subtitle = (
        "Whole utterances of the validation split. A score is the bona fide logit minus the spoof logit; "
        f"higher means more bona fide. The weights with the lowest EER ({NAMES[select_by]}) are the best."
    )
    if any("ema" in rates for rates in history.values()):
        subtitle += " Tables, DET curves and scores are of the better of the weights and their average (EMA)."
    return Page(title, subtitle, sections)


def _size(scores: GroupedScores, corpus: str) -> int:
    return sum(part.size for part in scores.by_corpus[corpus])


def _name(validation: ValidationScores, best_step: int, shown: Sequence[ValidationScores]) -> str:
    steps = {"first": shown[0].step, "best": best_step, "latest": shown[-1].step}
    words = [role for role, step in steps.items() if step == validation.step]
    words += ["EMA"] if validation.weights == "ema" else []
    return f"step {validation.step:,} ({', '.join(words)})"


def _headline(
    history: History, best_step: int, shown: Sequence[ValidationScores], select_by: Selection
) -> Facts:
    num_later = sum(step > best_step for step in history)
    validations = "validation" if num_later == 1 else "validations"
    note = f"no improvement in {num_later} later {validations}" if num_later else "the latest"
    best, latest = (next(each for each in shown if each.step == step) for step in (best_step, shown[-1].step))
    selected = NAMES[select_by]
    others = [name for name in NAMES.values() if name != selected and name in best.rates]
    scores = latest.scores
    return Facts(
        [
            (f"best EER %, {selected}", percent(best.rates[selected]), f"step {best_step:,}, {note}"),
            *((f"EER %, {name}", percent(best.rates[name]), f"step {best_step:,}") for name in others),
            (f"latest EER %, {selected}", percent(latest.rates[selected]), f"step {latest.step:,}"),
            ("bona fide utterances", f"{scores.all.bonafide.size:,}", ""),
            ("spoof utterances", f"{scores.all.spoof.size:,}", ""),
            ("corpora", f"{len(scores.by_corpus):,}", ""),
            ("attacks", f"{len(scores.error_rates.attacks):,}", ""),
        ]
    )


def _line(name: str, history: Mapping[int, Rates], colour: int, *, is_dashed: bool = False) -> Line:
    """The rate of this name over steps, with a mark at each step that has one."""
    points = {step: 100 * rates[name] for step, rates in history.items() if name in rates}
    text = f"{name}, EMA" if is_dashed else name
    marks = [(float(step), rate, f"{text}, step {step:,}: {rate:.2f} %") for step, rate in points.items()]
    return Line(text, list(points), list(points.values()), colour, is_dashed=is_dashed, marks=marks)


def _over_steps(title: str, lines: Sequence[Line], last_step: int) -> Figure:
    lines = [line for line in lines if len(line.marks)]
    highest = max(rate for line in lines for _, rate, _ in line.marks)
    axes = linear_axis("step", 0, 1.02 * last_step), linear_axis("EER %", 0, highest * 1.06 or 1.0)
    return line_chart(title, lines, *axes)


def _rates_over_steps(history: History, best_step: int) -> Figure:
    """Draw the pooled rate and the means; those of the average of the weights are dashed."""
    lines = []
    for weights in PREFIXES:
        rates = {step: each[weights] for step, each in history.items() if weights in each}
        for colour, name in enumerate(NAMES.values(), start=1):
            lines.append(_line(name, rates, colour, is_dashed=weights == "ema"))
    title = f"EER % over steps; best at step {best_step:,}"
    if any("ema" in each for each in history.values()):
        title += "; EMA dashed"
    return _over_steps(title, lines, max(history))


def _corpora_over_steps(history: History, corpora: Sequence[str], select_by: Selection) -> list[Figure]:
    """Draw the largest corpora with both classes; a single corpus is already in the chart of all corpora."""
    selected = NAMES[select_by]
    better = {
        step: min(each.values(), key=lambda rates: rates.get(selected, 1.0)) for step, each in history.items()
    }
    lines = [_line(corpus, better, colour) for colour, corpus in enumerate(corpora[:NUM_LARGEST], start=1)]
    if len(corpora) == 1 or not any(len(line.marks) for line in lines):
        return []
    return [_over_steps("EER % over steps, by corpus", lines, max(history))]


def _det_figure(corpus: str, shown: Sequence[ValidationScores], names: Mapping[int, str]) -> Figure:
    curves = []
    for colour, validation in enumerate(shown, start=1):
        eer = validation.rates.get(corpus)
        if eer is not None:
            scores = validation.scores.all if corpus == ALL else validation.scores.by_corpus[corpus]
            curves.append(Curve(names[validation.step], colour, sort_trials(*scores), eer))
    return det_plot(corpus, curves)


def _det_figures(
    corpora: Sequence[str], shown: Sequence[ValidationScores], names: Mapping[int, str]
) -> list[Figure]:
    """Draw one plot per corpus with both classes; a single corpus is already in the plot of all corpora."""
    if len(corpora) == 1:
        return []
    return [_det_figure(corpus, shown, names) for corpus in corpora if corpus in shown[-1].rates]


def _corpus_table(
    corpora: Sequence[str], shown: Sequence[ValidationScores], names: Mapping[int, str]
) -> Table:
    rows: list[list[Value]] = []
    for corpus in [*corpora, ALL] if len(corpora) > 1 else corpora:
        scores = shown[-1].scores.all if corpus == ALL else shown[-1].scores.by_corpus[corpus]
        cells = _rate_cells([validation.rates.get(corpus) for validation in shown])
        rows.append([corpus, scores.bonafide.size, scores.spoof.size, *cells])
    titles = ["corpus", "bona fide", "spoof", *(names[validation.step] for validation in shown)]
    return Table(titles, rows, "EER %", num_totals=int(len(corpora) > 1))


def _rate_cells(rates: Sequence[float | None]) -> list[Cell]:
    """The rates of the shown validations, the lowest of several marked."""
    lowest = min((rate for rate in rates if rate is not None), default=None)
    is_compared = len(rates) > 1
    return [
        Cell(percent(rate), is_best=is_compared and rate is not None and rate == lowest) for rate in rates
    ]


def _attack_table(shown: Sequence[ValidationScores], names: Mapping[int, str]) -> Table:
    """Rows of the attacks with the highest error rates at the latest step."""
    rates: list[ErrorRates] = [validation.scores.error_rates for validation in shown]
    latest = shown[-1].scores
    hardest = sorted(rates[-1].attacks, key=lambda group: (-rates[-1].attacks[group], group))[:NUM_HARDEST]
    rows: list[list[Value]] = [
        [
            f"{group.corpus}/{group.attack}",
            latest.by_group[group].size,
            *_rate_cells([each.attacks.get(group) for each in rates]),
        ]
        for group in hardest
    ]
    titles = ["attack", "spoof", *(names[validation.step] for validation in shown)]
    num_others = len(rates[-1].attacks) - len(hardest)
    caption = "EER % against the bona fide speech of the corpus, or of all corpora if it has none"
    if num_others:
        caption += f"; {num_others:,} attacks with lower rates are not shown"
    return Table(titles, rows, caption)


def _histograms(corpora: Sequence[str], latest: GroupedScores) -> list[Block]:
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
