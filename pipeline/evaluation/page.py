"""The results for people: a table of EERs in plain text, and the HTML report."""

from collections.abc import Iterator, Sequence

from pipeline.evaluation import layout
from pipeline.evaluation.figures import Curve, det_plot, percent
from pipeline.evaluation.measure import MEAN, POOLED, Measurement, Results
from pipeline.evaluation.scores import GROUPS, NOT_STATED, ScoreSet, format_value, split_by_label
from pipeline.report import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value
from pipeline.report.charts import Bar, bar_chart, histogram, linear_axis

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
"""Metric → column title, for all metrics but the EER; recall is left out because it is 1 − miss."""

PERCENT = ("accuracy", "precision", "f1", "miss", "false_alarm")
"""Metrics that are shown in percent."""

NUM_HARDEST = 60
"""Maximum number of rows of a breakdown; `layout.METRICS_TABLE` has all of them."""


def eer_table(results: Results) -> str:
    """Format the EERs in percent as a table in plain text, one row per corpus and one column per system."""
    lines = [["EER (%)", *results.systems]]
    for corpus in results.corpora_and_totals:
        rates = (each.metrics["eer"] if each else None for each in results.by_system(corpus))
        lines.append([corpus, *map(percent, rates)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    )


def to_page(results: Results) -> Page:
    """Render the report: EERs with intervals, DET curves, distributions, all metrics, breakdowns, identities."""
    systems, corpora = ", ".join(results.systems), ", ".join(results.corpora)
    return Page(
        f"Evaluation of {systems}",
        f"Corpora: {corpora}. A score is the bona fide logit minus the spoof logit; higher means more bona fide.",
        [
            _overview(results),
            *_det_curves(results),
            Section("Score distributions", _histograms(results)),
            _all_metrics(results),
            _breakdowns(results),
            _identities(results),
        ],
    )


def _overview(results: Results) -> Section:
    corpora, settings = results.corpora_and_totals, results.settings
    rows: list[list[Value]] = [[corpus, *_eer_cells(results.by_system(corpus))] for corpus in corpora]
    bars = [[_bar(each) for each in results.by_system(corpus)] for corpus in corpora]
    series = [(system, [row[i] for row in bars]) for i, system in enumerate(results.systems)]
    ends = [bar.interval[1] if bar.interval else bar.value for row in bars for bar in row if bar]
    blocks: list[Block] = [
        *(Text(warning, "warning") for warning in results.warnings),
        _headline(results),
        Table(["EER %", *results.systems], rows, num_totals=len(corpora) - len(results.corpora)),
        Text(
            f"EER by the definition “{settings.definition}”. Small numbers are 95 % confidence intervals from "
            f"{settings.num_bootstrap:,} bootstrap resamples of each class. Random guessing has an EER of 50 %."
        ),
        bar_chart(
            "EER with 95 % confidence interval",
            corpora,
            series,
            linear_axis("EER %", 0, max(ends, default=50)),
        ),
        _det_figure(results, corpora[-1]),
    ]
    return Section("Equal error rate", blocks)


def _headline(results: Results) -> Facts:
    which = results.corpora_and_totals[-2] if len(results.corpora) > 1 else results.corpora[0]
    eers = [(each.metrics["eer"], each.system) for each in results.by_system(which) if each is not None]
    known = sorted((eer, system) for eer, system in eers if eer is not None)
    scope = f"mean of {len(results.corpora)} corpora" if which == MEAN else which
    lowest, note = (f"{percent(known[0][0])} %", f"{known[0][1]}, {scope}") if known else ("–", scope)
    pools = [pool for pool in results.by_system(POOLED) if pool]
    return Facts(
        [
            ("lowest EER", lowest, note),
            ("bona fide utterances", f"{max(pool.num_bonafide for pool in pools):,}", ""),
            ("spoof utterances", f"{max(pool.num_spoof for pool in pools):,}", ""),
            ("systems", f"{len(results.systems)}", ""),
            ("corpora", f"{len(results.corpora)}", ""),
        ]
    )


def _eer_cells(measurements: Sequence[Measurement | None], *, has_bar: bool = False) -> list[Cell]:
    rates = [each.metrics["eer"] if each else None for each in measurements]
    lowest = min((rate for rate in rates if rate is not None), default=None)
    cells = []
    for each, rate in zip(measurements, rates, strict=True):
        if each is None:
            cells.append(Cell("–", "not scored"))
        elif rate is None:
            cells.append(Cell("–", _missing_class(each)))
        else:
            is_best = len(measurements) > 1 and rate == lowest
            cells.append(Cell(percent(rate), _interval(each), rate if has_bar else None, is_best))
    return cells


def _missing_class(measurement: Measurement) -> str:
    if not measurement.num_bonafide:
        return f"no bona fide, {percent(measurement.metrics['false_alarm'])} % false alarms"
    return f"no spoof, {percent(measurement.metrics['miss'])} % misses"


def _interval(measurement: Measurement) -> str:
    low, high = measurement.metrics["eer_low"], measurement.metrics["eer_high"]
    return "" if low is None or high is None else f"{percent(low)} – {percent(high)}"


def _bar(measurement: Measurement | None) -> Bar | None:
    eer = measurement.metrics["eer"] if measurement else None
    if measurement is None or eer is None:
        return None
    low, high = measurement.metrics["eer_low"], measurement.metrics["eer_high"]
    interval = None if low is None or high is None else (100 * low, 100 * high)
    return Bar(100 * eer, f"{percent(eer)} %", interval)


def _det_curves(results: Results) -> list[Section]:
    """Draw one plot per corpus; a single corpus is already in the overview."""
    if len(results.corpora) == 1:
        return []
    return [Section("DET curves by corpus", [_det_figure(results, corpus) for corpus in results.corpora])]


def _det_figure(results: Results, corpus: str) -> Figure:
    curves = []
    pairs = zip(results.score_sets, results.by_system(corpus), strict=True)
    for colour, (scores, measurement) in enumerate(pairs, start=1):
        eer = measurement.metrics["eer"] if measurement else None
        if eer is not None:
            rows = scores.rows if corpus == POOLED else scores.rows_of(corpus)
            curves.append(Curve(scores.system, colour, split_by_label(rows), eer))
    return det_plot(corpus, curves)


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
        for bonafide, spoof in [split_by_label(scores.rows_of(corpus))]
    ]


def _all_metrics(results: Results) -> Section:
    rows: list[list[Value]] = [
        [corpus, each.system, each.num_bonafide, each.num_spoof, *_metric_cells(each)]
        for corpus in results.corpora_and_totals
        for each in results.by_system(corpus)
        if each is not None
    ]
    titles = ["corpus", "system", "bona fide", "spoof", "EER", *COLUMNS.values()]
    explanation = (
        "minDCF and actDCF are normalised detection costs as in ASVspoof 5: the prior of spoof is 5 %, a miss costs "
        "1, a false alarm 10; a detector that ignores the audio costs 1. Cllr is in bits; a detector without "
        "information has 1. The columns from accuracy to false alarm use the threshold 0: a score of 0 or above, "
        "P(bona fide) ≥ 0.5, counts as bona fide, which is the positive class."
    )
    caption = "EER, and accuracy to false alarm, in %"
    return Section("All metrics", [Table(titles, rows, caption), Text(explanation)])


def _metric_cells(measurement: Measurement) -> Iterator[Cell]:
    yield Cell(percent(measurement.metrics["eer"]))
    for name in COLUMNS:
        value = measurement.metrics[name]
        if name in PERCENT:
            yield Cell(percent(value))
        else:
            yield Cell("–" if value is None else f"{value:.3f}")


def _breakdowns(results: Results) -> Section:
    blocks: list[Block] = [
        Text(
            "Each attack and artifact is measured against all bona fide utterances of its corpus, each language "
            "against its own bona fide utterances. The hardest comes first."
        )
    ]
    for corpus in results.corpora:
        missing = []
        for group in GROUPS:
            if set(results.keys(corpus, group)) <= {NOT_STATED}:
                missing.append(group)
            else:
                blocks += _breakdown(results, corpus, group)
        if missing:
            blocks.append(Text(f"{corpus} does not state: {', '.join(missing)}."))
    return Section("Breakdowns", blocks)


def _breakdown(results: Results, corpus: str, group: str) -> list[Block]:
    by_key = {key: results.by_system(corpus, group, key) for key in results.keys(corpus, group)}
    hardest_first = sorted(by_key, key=lambda key: _ease(by_key[key]))
    rows: list[list[Value]] = []
    for key in hardest_first[:NUM_HARDEST]:
        scored = [each for each in by_key[key] if each is not None]
        counts = (max(each.num_bonafide for each in scored), max(each.num_spoof for each in scored))
        rows.append([key, *counts, *_eer_cells(by_key[key], has_bar=True)])
    table = Table([group, "bona fide", "spoof", *results.systems], rows, f"{corpus}: EER % by {group}")
    num_hidden = len(hardest_first) - NUM_HARDEST
    if num_hidden <= 0:
        return [table]
    return [table, Text(f"{num_hidden} easier rows are omitted; {layout.METRICS_TABLE} has all of them.")]


def _ease(measurements: Sequence[Measurement | None]) -> float:
    """Return the negative mean EER over systems, as a sort key; 1 if there is no EER."""
    rates = [each.metrics["eer"] for each in measurements if each is not None]
    known = [rate for rate in rates if rate is not None]
    return -sum(known) / len(known) if known else 1.0


def _identities(results: Results) -> Section:
    """Show everything that determines the scores, one column per system."""
    columns = [identity(scores) for scores in results.score_sets]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        [name.replace("_", " "), *(format_value(column.get(name)) for column in columns)] for name in names
    ]
    return Section("Systems and settings", [Table(["", *results.systems], rows)])


def identity(scores: ScoreSet) -> dict[str, object]:
    """Return the description of a system's scores without the settings, with the folder and the MLflow run."""
    omitted = ("system", "config", "tracking")
    return {
        **{name: value for name, value in scores.identity.items() if name not in omitted},
        "num_unlabelled": scores.num_unlabelled,
        "scores": scores.location,
        "mlflow_run": scores.run_id,
    }
