"""The sections of a report about calibration: costs before and after, diagnostic plots, and thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.cells import metric_cell
from pipeline.evaluation.figures import Ratios, cross_entropy_plot, reliability_plot, tippett_plot
from pipeline.evaluation.formatting import number, percent
from pipeline.evaluation.measure import CALIBRATED, Measurement
from pipeline.evaluation.results import Results
from pipeline.evaluation.scores import ScoreSet
from pipeline.metrics import Trials
from pipeline.metrics.calibration import threshold_for
from pipeline.metrics.rates import cllr_of
from pipeline.report import Block, Cell, Section, Table, Text, Value

FALSE_ALARMS = (0.05, 0.01, 0.001)
"""Wanted false alarm rates of the table of thresholds."""

EXPLANATION = (
    "A likelihood ratio says how many times more probable a score is for bona fide than for spoofed speech: posterior "
    "odds = prior odds × ratio. Cllr is the cost of the ratios in bits: 0 is perfect, 1 is knowing nothing, more "
    "misleads. The lowest Cllr is what remains after the best increasing map of the scores; the rest is the cost of "
    "calibration, and on a corpus that is not like that of the calibration it measures the shift between them."
)
PLOTS = (
    "Reliability: on the diagonal, a stated ratio is the one that these utterances support; below it, the system is "
    "too sure of bona fide. Tippett: the share of each class whose ratio is at least x; bona fide speech (solid) "
    "should be on the right of 0, spoofed speech (dashed) on the left. Cross-entropy: the bits that are left to learn "
    "for every prior, for the system (solid) and for the best increasing map of its scores (dashed); their distance "
    "is the cost of calibration."
)


def calibration_sections(results: Results) -> list[Section]:
    """Show costs and plots of log-likelihood ratios, and thresholds."""
    return [_calibration(results), _thresholds(results)]


def _calibration(results: Results) -> Section:
    blocks: list[Block] = [Text(EXPLANATION)]
    for system, calibration in results.calibrations.items():
        blocks.append(
            Text(
                f"{system} is calibrated: log-likelihood ratio = {calibration.scale:.4g} × score "
                f"{calibration.offset:+.4g}, fitted on {calibration.num_bonafide:,} bona fide and "
                f"{calibration.num_spoof:,} spoof utterances of {', '.join(calibration.corpora)} for a prior of bona "
                f"fide of {calibration.prior:.3g}."
            )
        )
    uncalibrated = [system for system in results.systems if system not in results.calibrations]
    if uncalibrated:
        blocks.append(
            Text(
                f"Not calibrated: {', '.join(uncalibrated)}. A score is then the log odds of a posterior, and contains "
                "the prior of the training; the plots take it for a ratio."
            )
        )
    blocks += [_costs(results, corpus) for corpus in results.corpora]
    blocks.append(Text(PLOTS))
    for corpus in results.corpora:
        ratios = _ratios(results, corpus)
        if ratios:
            plots = (reliability_plot, tippett_plot, cross_entropy_plot)
            blocks += [plot(corpus, ratios) for plot in plots]
    return Section("Calibration", blocks)


def _both_classes(results: Results, corpus: str) -> list[tuple[int, ScoreSet, Measurement]]:
    """The systems that have an EER on a corpus, with their colours."""
    pairs = zip(results.score_sets, results.by_system(corpus), strict=True)
    return [
        (colour, scores, each)
        for colour, (scores, each) in enumerate(pairs, start=1)
        if each is not None and each.metrics["eer"] is not None
    ]


def _ratios(results: Results, corpus: str) -> list[Ratios]:
    return [
        Ratios(scores.system, colour, _llr(results, scores, corpus))
        for colour, scores, _ in _both_classes(results, corpus)
    ]


def _llr(results: Results, scores: ScoreSet, corpus: str) -> Trials:
    """The scores of a system on a corpus, calibrated if it has a calibration."""
    trials = scores.by_corpus[corpus].trials()
    calibration = results.calibrations.get(scores.system)
    return trials if calibration is None else trials._replace(scores=calibration.llr(trials.scores))


def _costs(results: Results, corpus: str) -> Table:
    measured = _both_classes(results, corpus)
    rows: list[list[Value]] = [
        ["Cllr, as scored", *(metric_cell(each, "cllr") for _, _, each in measured)],
        [
            "Cllr, prior of the training removed",
            *(_without_prior(scores, corpus) for _, scores, _ in measured),
        ],
        ["Cllr, calibrated", *(metric_cell(each, f"{CALIBRATED}cllr") for _, _, each in measured)],
        ["Cllr, lowest", *(metric_cell(each, "cllr_min") for _, _, each in measured)],
        ["actDCF, as scored", *(metric_cell(each, "act_dcf") for _, _, each in measured)],
        ["actDCF, calibrated", *(metric_cell(each, f"{CALIBRATED}act_dcf") for _, _, each in measured)],
        ["minDCF", *(metric_cell(each, "min_dcf") for _, _, each in measured)],
        [
            "miss at the chosen threshold",
            *(metric_cell(each, f"{CALIBRATED}miss") for _, _, each in measured),
        ],
        ["false alarm there", *(metric_cell(each, f"{CALIBRATED}false_alarm") for _, _, each in measured)],
    ]
    shown = [row for row in rows if any(isinstance(cell, Cell) and cell.text != "–" for cell in row[1:])]
    return Table(["", *(scores.system for _, scores, _ in measured)], shown, corpus)


def _without_prior(scores: ScoreSet, corpus: str) -> Cell:
    """Cllr once the log odds of the training are subtracted, which needs no data."""
    log_odds = scores.identity.get("training_log_odds")
    if log_odds is None:
        return Cell("–")
    trials = scores.by_corpus[corpus].trials()
    return Cell(number("cllr", cllr_of(trials._replace(scores=trials.scores - float(log_odds)))))


def _thresholds(results: Results) -> Section:
    """Show the thresholds for wanted false alarm rates, and what they cost in misses."""
    rows: list[list[Value]] = []
    for corpus in results.corpora:
        for _, scores, _ in _both_classes(results, corpus):
            trials = _llr(results, scores, corpus)
            bonafide, spoof = trials.by_class
            for rate in FALSE_ALARMS:
                chosen = threshold_for(spoof, rate)
                guaranteed: Value = (
                    f"cannot be promised with {chosen.num_spoof:,}; needs {chosen.num_needed:,}"
                )
                if chosen.guaranteed is not None:
                    guaranteed = _threshold(chosen.guaranteed, bonafide)
                point = _threshold(chosen.point, bonafide)
                rows.append([corpus, scores.system, Cell(f"{100 * rate:g} %"), point, guaranteed])
    explanation = (
        "The lowest log-likelihood ratio (of a system that is not calibrated: score) from which an utterance may count "
        "as bona fide, if at most this share of spoofed utterances shall be accepted; the small number is the share of "
        "bona fide utterances that it misses. “On these utterances” holds for them alone. “Guaranteed” holds for "
        "new utterances with 95 % confidence, if they are like these and independent of each other; it needs enough "
        "spoofed utterances."
    )
    columns = ["corpus", "system", "false alarms", "on these utterances", "guaranteed"]
    return Section("Thresholds", [Table(columns, rows), Text(explanation)])


def _threshold(threshold: float, bonafide: NDArray[np.float64]) -> Cell:
    """Show a threshold and the share of sorted bona fide scores that it misses."""
    miss = float(np.searchsorted(bonafide, threshold)) / bonafide.size
    return Cell(f"{threshold:.3f}", f"misses {percent(miss)} %", is_word=True)
