"""Results for people: a plain table of error rates, and the page with curves, breakdowns and identities."""

from collections.abc import Iterator, Sequence

from pipeline.evaluation.measure import MEAN, POOLED, Measurement, Results
from pipeline.evaluation.scores import GROUPS, NOT_STATED, ScoreSet, in_words, split_by_label
from pipeline.metrics import det_curve
from pipeline.report import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value
from pipeline.report.charts import Bar, Line, bar_chart, histogram, line_chart, linear_axis, probit_axis

COLUMNS = {
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr",
    "roc_auc": "AUC",
    "accuracy": "accuracy",
    "precision": "precision",
    "f1": "F1",
    "miss": "miss",
    "false_alarm": "false alarm",
}
"""Titles of the metrics beside the EER; recall is 1 - miss."""

PERCENT = ("accuracy", "precision", "f1", "miss", "false_alarm")
"""Fractions that are shown in percent."""

NUM_WORST = 60
"""Rows of a breakdown that the page shows; metrics.parquet has all."""


def eer_table(results: Results) -> str:
    """The EER in percent as plain text: corpora down, systems across."""
    lines = [["EER (%)", *results.systems]]
    for corpus in results.corpora_and_totals:
        rates = (each.metrics["eer"] if each else None for each in results.by_system(corpus))
        lines.append([corpus, *map(_percent, rates)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    )


def to_page(results: Results) -> Page:
    """Who errs least and how sure that is, where each system fails, and what was scored how."""
    systems, corpora = ", ".join(results.systems), ", ".join(results.corpora)
    return Page(
        f"Evaluation of {systems}",
        f"On {corpora}. A score is the logit of bona fide minus the logit of spoof: higher is more bona fide.",
        [
            _overview(results),
            *_det_curves(results),
            Section("Score distributions", _histograms(results)),
            _all_metrics(results),
            _breakdowns(results),
            _identities(results),
        ],
    )


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.2f}"


def _overview(results: Results) -> Section:
    corpora, settings = results.corpora_and_totals, results.settings
    rows: list[list[Value]] = [[corpus, *_eer_cells(results.by_system(corpus))] for corpus in corpora]
    bars = [[_bar(each) for each in results.by_system(corpus)] for corpus in corpora]
    series = [(system, [of_corpus[i] for of_corpus in bars]) for i, system in enumerate(results.systems)]
    ends = [bar.interval[1] if bar.interval else bar.value for row in bars for bar in row if bar]
    blocks: list[Block] = [
        *(Text(warning, "warning") for warning in results.warnings),
        _headline(results),
        Table(["EER %", *results.systems], rows, num_totals=len(corpora) - len(results.corpora)),
        Text(
            f"EER by the definition “{settings.definition}”. Small figures are 95 % intervals from "
            f"{settings.num_bootstrap:,} bootstrap resamples of each class. Coin flips have 50 %."
        ),
        bar_chart("EER with its interval", corpora, series, linear_axis("EER %", 0, max(ends, default=50))),
        _det_figure(results, corpora[-1]),
    ]
    return Section("Equal error rate", blocks)


def _headline(results: Results) -> Facts:
    which = results.corpora_and_totals[-2] if len(results.corpora) > 1 else results.corpora[0]
    found = [(each.metrics["eer"], each.system) for each in results.by_system(which) if each is not None]
    known = sorted((eer, system) for eer, system in found if eer is not None)
    best, name = (f"{_percent(known[0][0])} %", known[0][1]) if known else ("–", "")
    where = f"mean of {len(results.corpora)} corpora" if which == MEAN else which
    pools = [pool for pool in results.by_system(POOLED) if pool]
    return Facts(
        [
            ("lowest EER", best, f"{name}, {where}"),
            ("bona fide utterances", f"{max(pool.num_bonafide for pool in pools):,}", ""),
            ("spoof utterances", f"{max(pool.num_spoof for pool in pools):,}", ""),
            ("systems", f"{len(results.systems)}", ""),
            ("corpora", f"{len(results.corpora)}", ""),
        ]
    )


def _eer_cells(found: Sequence[Measurement | None], *, has_bar: bool = False) -> list[Cell]:
    rates = [each.metrics["eer"] if each else None for each in found]
    lowest = min((rate for rate in rates if rate is not None), default=None)
    cells = []
    for each, rate in zip(found, rates, strict=True):
        if each is None:
            cells.append(Cell("–", "not scored"))
        elif rate is None:
            cells.append(Cell("–", _absence(each)))
        else:
            is_best = len(found) > 1 and rate == lowest
            cells.append(Cell(_percent(rate), _interval(each), rate if has_bar else None, is_best))
    return cells


def _absence(each: Measurement) -> str:
    if not each.num_bonafide:
        return f"no bona fide, {_percent(each.metrics['false_alarm'])} % false alarms"
    return f"no spoof, {_percent(each.metrics['miss'])} % misses"


def _interval(each: Measurement) -> str:
    low, high = each.metrics["eer_low"], each.metrics["eer_high"]
    return "" if low is None or high is None else f"{_percent(low)} – {_percent(high)}"


def _bar(each: Measurement | None) -> Bar | None:
    if each is None or each.metrics["eer"] is None:
        return None
    low, high = each.metrics["eer_low"], each.metrics["eer_high"]
    interval = None if low is None or high is None else (100 * low, 100 * high)
    return Bar(100 * each.metrics["eer"], f"{_percent(each.metrics['eer'])} %", interval)


def _det_curves(results: Results) -> list[Section]:
    """One curve a corpus; where there is only one, it stands in the overview."""
    if len(results.corpora) == 1:
        return []
    return [Section("DET curves by corpus", [_det_figure(results, corpus) for corpus in results.corpora])]


def _det_figure(results: Results, corpus: str) -> Figure:
    lines: list[Line] = []
    lowest = 0.01
    pairs = zip(results.score_sets, results.by_system(corpus), strict=True)
    for index, (scores, each) in enumerate(pairs, start=1):
        eer = each.metrics["eer"] if each else None
        if eer is None:
            continue
        bonafide, spoof = split_by_label(scores.rows if corpus == POOLED else scores.of(corpus))
        lowest = min(lowest, 1 / bonafide.size, 1 / spoof.size)
        marks = [(eer, eer, f"{scores.system}: EER {_percent(eer)} %")]
        lines.append(Line(scores.system, *det_curve(bonafide, spoof), index, marks=marks))
    x, y = (probit_axis(f"{name} %", max(lowest, 1e-4), 0.8) for name in ("false alarm", "miss"))
    return line_chart(f"DET: {corpus}", lines, x, y, has_diagonal=True)


def _histograms(results: Results) -> list[Figure]:
    return [
        histogram(
            f"{corpus} · {scores.system}",
            [("bona fide", bonafide, 1), ("spoof", spoof, 2)],
            "score",
        )
        for corpus in results.corpora
        for scores in results.score_sets
        if corpus in scores.corpora
        for bonafide, spoof in [split_by_label(scores.of(corpus))]
    ]


def _all_metrics(results: Results) -> Section:
    rows: list[list[Value]] = [
        [corpus, each.system, each.num_bonafide, each.num_spoof, *_metric_cells(each)]
        for corpus in results.corpora_and_totals
        for each in results.by_system(corpus)
        if each is not None
    ]
    titles = ["corpus", "system", "bona fide", "spoof", "EER", *COLUMNS.values()]
    words = (
        "Detection costs as in ASVspoof 5: 5 % spoofed speech, a miss costs 1, a false alarm 10; 1 is the cost of "
        "not listening. Cllr is in bits, 1 knows nothing. Accuracy to false alarm count a score of 0 or above, "
        "P(bona fide) ≥ 0.5, as bona fide, the positive class."
    )
    caption = "EER, and accuracy to false alarm, in %"
    return Section("All metrics", [Table(titles, rows, caption), Text(words)])


def _metric_cells(each: Measurement) -> Iterator[Cell]:
    yield Cell(_percent(each.metrics["eer"]))
    for name in COLUMNS:
        value = each.metrics[name]
        if name in PERCENT:
            yield Cell(_percent(value))
        else:
            yield Cell("–" if value is None else f"{value:.3f}")


def _breakdowns(results: Results) -> Section:
    blocks: list[Block] = [
        Text(
            "Each attack and artifact stands against all bona fide utterances of its corpus, each language "
            "against its own; the hardest first."
        )
    ]
    for corpus in results.corpora:
        silent = []
        for group in GROUPS:
            if set(results.keys(corpus, group)) <= {NOT_STATED}:
                silent.append(group)
            else:
                blocks += _breakdown(results, corpus, group)
        if silent:
            blocks.append(Text(f"{corpus} does not state: {', '.join(silent)}."))
    return Section("Breakdowns", blocks)


def _breakdown(results: Results, corpus: str, group: str) -> list[Block]:
    found = {key: results.by_system(corpus, group, key) for key in results.keys(corpus, group)}
    hardest = sorted(found, key=lambda key: _ease(found[key]))
    rows: list[list[Value]] = []
    for key in hardest[:NUM_WORST]:
        seen = [each for each in found[key] if each is not None]
        counts = (max(each.num_bonafide for each in seen), max(each.num_spoof for each in seen))
        rows.append([key, *counts, *_eer_cells(found[key], has_bar=True)])
    table = Table([group, "bona fide", "spoof", *results.systems], rows, f"{corpus}: EER % by {group}")
    if len(hardest) <= NUM_WORST:
        return [table]
    return [table, Text(f"{len(hardest) - NUM_WORST} easier ones are in metrics.parquet.")]


def _ease(found: Sequence[Measurement | None]) -> float:
    """Sorts by falling mean EER; what has none comes last."""
    rates = [each.metrics["eer"] for each in found if each is not None]
    known = [rate for rate in rates if rate is not None]
    return -sum(known) / len(known) if known else 1.0


def _identities(results: Results) -> Section:
    """Everything that a score's value depends on, one column a system."""
    columns = [identity(scores) for scores in results.score_sets]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name.replace("_", " "), *(in_words(column.get(name)) for column in columns)] for name in names]
    return Section("What was scored, and how", [Table(["", *results.systems], rows)])


def identity(scores: ScoreSet) -> dict[str, object]:
    """What the scores of a system are of: its scores.json without settings, with what was found beside it."""
    kept = {
        name: value for name, value in scores.identity.items() if name not in ("system", "config", "tracking")
    }
    return {
        **kept,
        "num_unlabelled": scores.num_unlabelled,
        "scores": scores.location,
        "mlflow_run": scores.run_id,
    }
