"""The section of a report about frames: where spoofed speech is found, and utterances over time."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation import layout
from pipeline.evaluation.cells import metric_cell
from pipeline.evaluation.formatting import NON_SPEECH, number
from pipeline.evaluation.measure import Measurement, Settings
from pipeline.evaluation.over_time import GROUP, RESOLUTIONS_MS, TOLERANCE_MS, OverTime, Shown, key_of
from pipeline.evaluation.results import Results
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.strip import strip

ROWS = {
    "range_eer": "range EER",
    **{f"segment_eer_{each}ms": f"segment EER, {each} ms" for each in RESOLUTIONS_MS},
    "time_f1": "F1 of spoofed time",
    "time_precision": "precision of spoofed time",
    "time_recall": "recall of spoofed time",
    "region_precision": "average precision of regions",
    f"boundaries_within_{TOLERANCE_MS}ms": f"boundaries within {TOLERANCE_MS} ms",
}
"""Metric → title, for the metrics that are shown."""

MAX_SECONDS = 20.0
"""How much of an utterance is shown."""

CAVEATS = (
    "A strip shows what the detector computes at each moment, not where speech is spoofed. Attention carries "
    "information across the utterance, so a spoofed part lowers the scores around it. A detector that was trained on "
    "whole utterances never saw where a spoof begins or ends, and finds such places weakly. Take a strip as evidence "
    "for where to listen, not as proof."
)
EXPLANATION = (
    "Errors are counted in time: the range EER is the share of bona fide time that is rejected, at the threshold where "
    "the same share of spoofed time is accepted. Segments are spoofed if any part of them is, and have the score of "
    "their lowest frame; coarse segments hide errors, so compare systems by the range EER. The rows from F1 on use a "
    "fixed threshold, and spoofed is the positive class. A region is found if it shares half of its time with a run of "
    "frames below the threshold. Where many boundaries are detected, one is near every true one by chance. Utterances "
    "without known regions do not count."
)


def over_time_section(results: Results) -> list[Section]:
    """Show the metrics over time, and some utterances; nothing if no system has scores of frames."""
    over_time = results.over_time
    if over_time is None:
        return []
    return [Section("Over time", [*_metrics(results, over_time), *_strips(results, over_time)])]


def _metrics(results: Results, over_time: OverTime) -> list[Block]:
    key = key_of(results.settings.non_speech)
    tables: list[Block] = []
    for corpus in results.corpora:
        measured = [each for each in results.by_system(corpus, GROUP, key) if each is not None]
        if measured:
            tables.append(_table(corpus, measured, results, over_time))
    if not tables:
        return [
            Text(
                "No regions of these utterances are known, so nothing is measured over time. To measure, score "
                "corpora whose manifests name their regions."
            )
        ]
    remarks: list[Block] = [Text(EXPLANATION), Text(_how(results.settings))]
    if over_time.num_cut:
        remarks.append(
            Text(
                f"{over_time.num_cut:,} utterances were scored at their beginning only, and only this part counts.",
                "warning",
            )
        )
    return [*tables, *remarks]


def _table(corpus: str, measured: list[Measurement], results: Results, over_time: OverTime) -> Table:
    rates: list[list[Value]] = [
        [title, *(metric_cell(each, name) for each in measured)] for name, title in ROWS.items()
    ]
    rows: list[list[Value]] = [
        ["utterances", *(Cell(f"{each.num_bonafide + each.num_spoof:,}") for each in measured)],
        ["bona fide time", *(_minutes(each, "bonafide_seconds") for each in measured)],
        ["spoofed time", *(_minutes(each, "spoof_seconds") for each in measured)],
        *rates,
        ["detected boundaries per true one", *(_ratio(each) for each in measured)],
        ["threshold", *(_threshold(over_time, each.system) for each in measured)],
    ]
    caption = f"{corpus}, non-speech {NON_SPEECH[results.settings.non_speech]}"
    return Table(["", *(each.system for each in measured)], rows, caption)


def _minutes(measurement: Measurement, name: str) -> Cell:
    seconds = measurement.metrics[name]
    return Cell("–" if seconds is None else f"{seconds / 60:,.1f} min")


def _ratio(measurement: Measurement) -> Cell:
    ratio = measurement.metrics["detected_per_boundary"]
    return Cell("–" if ratio is None else f"{ratio:.1f}")


def _threshold(over_time: OverTime, system: str) -> Cell:
    threshold, origin = over_time.thresholds[system]
    return Cell(f"{threshold:.3f}", origin)


def _smoothed(settings: Settings) -> str:
    seconds = settings.smoothing_s
    return f"averaged over a centred window of {seconds:g} s" if seconds else "not smoothed"


def _how(settings: Settings) -> str:
    return (
        f"Frames are {_smoothed(settings)}; non-speech is {NON_SPEECH[settings.non_speech]}. The small numbers are "
        "95 % intervals of the range EER from resampled speakers or files, as for the EER. "
        f"{layout.METRICS_JSON} has all of these values in the group “{GROUP}”."
    )


def _strips(results: Results, over_time: OverTime) -> list[Block]:
    threshold, origin = over_time.thresholds[over_time.system]
    every = [each for shown in over_time.shown.values() for each in shown]
    distances = np.abs(np.concatenate([each.frames for each in every]) - threshold)
    reach = max(float(np.quantile(distances, 0.99)), 0.1)
    blocks: list[Block] = [
        Text(
            f"Utterances of {over_time.system}: the score of each 20 ms, {_smoothed(results.settings)}. Below the "
            f"dotted line, the threshold {threshold:.2f} ({origin}), "
            "speech counts as spoofed: its box is high, and that of bona fide speech is low. The stronger the colour, "
            "the farther the score is from the threshold. All strips have the same scale of scores. True regions, "
            "where they are known, are the lowest row."
        ),
        Text(CAVEATS),
    ]
    for kind, shown in over_time.shown.items():
        blocks += [Text(f"{kind}:"), *(_strip(each, threshold, reach) for each in shown)]
    return blocks


def _strip(each: Shown, threshold: float, reach: float) -> Figure:
    label = "bona fide" if each.label == "bonafide" else each.label
    attack = f", attack {each.attack}" if each.attack else ""
    is_cut = each.scored_seconds < each.seconds
    cut = f"; only {each.scored_seconds:.1f} of {each.seconds:.1f} s were scored" if is_cut else ""
    return strip(
        f"{each.corpus} · {each.id}: {label}{attack}, score {number('eer_threshold', each.score)}{cut}",
        each.frames,
        each.regions,
        hop_s=layout.FRAME_HOP_S,
        duration_s=each.scored_seconds,
        threshold=threshold,
        reach=reach,
        max_s=MAX_SECONDS,
    )
