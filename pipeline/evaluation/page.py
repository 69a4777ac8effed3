"""The results for people: a table of EERs in plain text, and the HTML report."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.calibration_section import calibration_sections
from pipeline.evaluation.cells import eer_cells, metric_cell, percent_span
from pipeline.evaluation.claims import Verdict
from pipeline.evaluation.comparison_section import comparison_section
from pipeline.evaluation.concerns import format_value
from pipeline.evaluation.embedding_section import embedding_section
from pipeline.evaluation.figures import Curve, det_plot
from pipeline.evaluation.formatting import PLURALS, percent
from pipeline.evaluation.groups_section import groups_section
from pipeline.evaluation.measure import MEAN, POOLED, Measurement
from pipeline.evaluation.over_time_section import over_time_section
from pipeline.evaluation.provenance_section import provenance_section
from pipeline.evaluation.published_section import published_section
from pipeline.evaluation.results import Results
from pipeline.evaluation.scores import ScoreSet
from pipeline.report import Block, Cell, Facts, Figure, Page, Section, Table, Text, Value
from pipeline.report.charts import Bar, bar_chart, histogram, linear_axis

TITLES = {
    "eer": "EER",
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr",
    "cllr_min": "Cllr, lowest",
    "cllr_cal": "Cllr, calibration",
    "roc_auc": "AUC",
    "accuracy": "accuracy",
    "precision": "precision",
    "f1": "F1",
    "miss": "miss",
    "false_alarm": "false alarm",
}
"""Metric → title, for all metrics that are shown; recall is left out because it is 1 − miss."""


SHOWN_ELSEWHERE = ("calibration", "training_corpora")
"""Entries of a description that have a section of their own."""


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


def to_page(results: Results, verdicts: Sequence[Verdict] = ()) -> Page:
    """Render the report: claims, EERs with intervals, comparisons, curves, embeddings, all metrics, groups …"""
    systems, corpora = ", ".join(results.systems), ", ".join(results.corpora)
    return Page(
        f"Evaluation of {systems}",
        f"Corpora: {corpora}. A score is the bona fide logit minus the spoof logit; higher means more bona fide.",
        [
            *_claims(verdicts),
            _overview(results),
            *published_section(results),
            *comparison_section(results),
            *_det_curves(results),
            Section("Score distributions", _histograms(results)),
            *calibration_sections(results),
            *embedding_section(results),
            _all_metrics(results),
            groups_section(results),
            *over_time_section(results),
            *provenance_section(results),
            _identities(results),
        ],
    )


def _claims(verdicts: Sequence[Verdict]) -> list[Section]:
    if not verdicts:
        return []
    rows: list[list[Value]] = [
        [
            verdict.claim.where,
            Cell("holds" if verdict.holds else "fails", is_warning=not verdict.holds, is_word=True),
            verdict.text,
        ]
        for verdict in verdicts
    ]
    return [Section("Claims", [Table(["claim", "", "measured"], rows)])]


def _overview(results: Results) -> Section:
    corpora, settings = results.corpora_and_totals, results.settings
    rows: list[list[Value]] = [
        [corpus, _clusters(results.by_system(corpus)), *eer_cells(results.by_system(corpus))]
        for corpus in corpora
    ]
    bars = [[_bar(each) for each in results.by_system(corpus)] for corpus in corpora]
    series = [(system, [row[i] for row in bars]) for i, system in enumerate(results.systems)]
    ends = [bar.interval[1] if bar.interval else bar.value for row in bars for bar in row if bar]
    blocks: list[Block] = [
        *(Text(warning, "warning") for warning in results.warnings),
        _headline(results),
        Table(
            ["EER %", "resampled", *results.systems],
            rows,
            num_totals=len(corpora) - len(results.corpora),
        ),
        Text(
            f"EER by the definition “{settings.definition}”. Small numbers are 95 % confidence intervals from "
            f"{settings.num_bootstrap:,} resamples, in which the utterances of a speaker or of a source file stay "
            "together. Random guessing has an EER of 50 %."
        ),
        bar_chart(
            "EER with 95 % confidence interval",
            corpora,
            series,
            linear_axis("EER %", 0, max(ends, default=50)),
        ),
        _det_figure(results, corpora[-1]),
        *_independence(results),
    ]
    return Section("Equal error rate", blocks)


def _clusters(measurements: Sequence[Measurement | None]) -> str:
    """Name what is resampled for the intervals of a corpus."""
    for each in measurements:
        if each is not None:
            return ", ".join(f"{count:,} {PLURALS[kind]}" for kind, count in each.clusters.items()) or "–"
    return "–"


def _independence(results: Results) -> list[Block]:
    """Show how much narrower intervals would be if utterances of a speaker or file were taken for independent."""
    rows: list[list[Value]] = []
    for corpus in results.corpora:
        for each in results.by_system(corpus):
            if each is None or "eer" not in each.intervals or each.independent_eer is None:
                continue
            if set(each.clusters) > {"utterance"} or "utterance" not in each.clusters:
                widths = [high - low for low, high in (each.intervals["eer"], each.independent_eer)]
                ratio = f"{widths[0] / widths[1]:.1f} ×" if widths[1] else "–"
                spans = [percent_span(each.intervals["eer"]), percent_span(each.independent_eer)]
                rows.append([corpus, each.system, *spans, Cell(ratio)])
    if not rows:
        return []
    columns = ["corpus", "system", "interval", "as if independent", "wider by"]
    return [
        Text(
            "Utterances of one speaker or file resemble each other, so they tell less than as many independent ones. "
            "Taking them for independent would give the narrower intervals on the right, which miss the true rate "
            "too often."
        ),
        Table(columns, rows, "EER %: what the intervals rest on"),
    ]


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


def _bar(measurement: Measurement | None) -> Bar | None:
    eer = measurement.metrics["eer"] if measurement else None
    if measurement is None or eer is None:
        return None
    interval = measurement.intervals.get("eer")
    shown = None if interval is None else (100 * interval.low, 100 * interval.high)
    return Bar(100 * eer, f"{percent(eer)} %", shown)


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
            utterances = scores.utterances if corpus == POOLED else scores.by_corpus[corpus]
            curves.append(Curve(scores.system, colour, utterances.trials(), eer))
    return det_plot(corpus, curves)


def _histograms(results: Results) -> list[Figure]:
    return [
        histogram(
            f"{corpus} · {scores.system}",
            [("bona fide", bonafide, 1), ("spoof", spoof, 2)],
            "score",
            _thresholds(results, scores, corpus),
        )
        for corpus in results.corpora
        for scores in results.score_sets
        if corpus in scores.by_corpus
        for bonafide, spoof in [scores.by_corpus[corpus].trials().by_class]
    ]


def _thresholds(results: Results, scores: ScoreSet, corpus: str) -> list[tuple[float, str]]:
    """The thresholds to show in a distribution: of the EER, and the one that was chosen with the calibration."""
    measurement = results.measurements[scores.system, corpus, "all", "all"]
    at_eer = measurement.metrics["eer_threshold"]
    shown = [] if at_eer is None else [(at_eer, f"threshold of the EER: {at_eer:.3f}")]
    calibration = results.calibrations.get(scores.system)
    if calibration is not None and (score := calibration.score_threshold) is not None:
        shown.append(
            (score, f"chosen threshold: {score:.3f}, log-likelihood ratio {calibration.llr(score):.3f}")
        )
    return shown


def _all_metrics(results: Results) -> Section:
    tables: list[Block] = []
    for corpus in results.corpora_and_totals:
        measured = [each for each in results.by_system(corpus) if each is not None]
        rows: list[list[Value]] = [
            ["bona fide", *(each.num_bonafide for each in measured)],
            ["spoof", *(each.num_spoof for each in measured)],
        ]
        for name, title in TITLES.items():
            rows.append([title, *(metric_cell(each, name) for each in measured)])
        tables.append(Table(["", *(each.system for each in measured)], rows, corpus))
    explanation = (
        "minDCF and actDCF are normalised detection costs as in ASVspoof 5: the prior of spoof is 5 %, a miss costs "
        "1, a false alarm 10; a detector that ignores the audio costs 1. Cllr is the cost of the scores as "
        "log-likelihood ratios, in bits; a detector without information has 1. Its lowest value is what the best "
        "increasing map of the scores would reach, and the rest is the cost of calibration. The rows from accuracy to "
        "false alarm use the threshold 0: a score of 0 or above, P(bona fide) ≥ 0.5, counts as bona fide, which is "
        "the positive class. Small numbers are 95 % intervals."
    )
    return Section("All metrics", [*tables, Text(explanation)])


def _identities(results: Results) -> Section:
    """Show everything that determines the scores, one column per system."""
    columns = [identity(scores) for scores in results.score_sets]
    names = list(dict.fromkeys(name for column in columns for name in column if name not in SHOWN_ELSEWHERE))
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
