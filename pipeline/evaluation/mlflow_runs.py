"""The MLflow runs of an evaluation: one per system, whose error rates also go to the run of its training."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline import tracking
from pipeline.evaluation import layout
from pipeline.evaluation.formatting import percent
from pipeline.evaluation.measure import MEAN, METRICS, POOLED, UNAVERAGED
from pipeline.evaluation.over_time import SHARES
from pipeline.evaluation.picture import EMBEDDINGS, PURITIES
from pipeline.evaluation.results import Results
from pipeline.evaluation.score_run import tags_of
from pipeline.evaluation.scores import ScoreSet

USUAL = {"policy": ("whole",), "precision": ("fp32", "tf32"), "definition": ("bonafide",), "recipe": ("",)}
"""Choices of a scoring or an evaluation that do not show in the names of a training's metrics."""
TRAINING_METRICS = ("eer", "min_dcf")
"""Metrics that a training gets: few, because MLflow draws one chart for each metric and corpus."""


def log_to_mlflow(
    results: Results, files: Mapping[str, bytes], *, uri: str, experiment: str, settings: Mapping[str, Any]
) -> list[str]:
    """Log each system to a run of its own, below the run that made its scores, and to the run of its training.

    Metrics have the same names for every system, such as `eer/CORPUS`. Each run gets all files of the report. A
    training gets the error rates of its result, see `training_metrics`.

    Args:
        results: the measurements.
        files: file name → content.
        uri: MLflow server or database; empty: nothing is logged.
        experiment: MLflow experiment.
        settings: the settings of the job.

    Returns:
        The URLs of the runs.
    """
    urls = []
    for scores in results.score_sets:
        weights_digest = scores.identity.get("weights_digest")
        other_systems = [system for system in results.systems if system != scores.system]
        tags = tags_of(scores.identity) | {
            "bonafide.system": scores.system,
            "bonafide.compared_with": ", ".join(other_systems) or None,
        }
        with tracking.run(
            uri,
            experiment,
            job="evaluate",
            name=f"evaluate {scores.system}",
            parent=scores.run_id,
            tags=tags,
            config=settings,
            weights=weights_digest or "",
        ) as tracked:
            tracked.describe(run_note(results, scores))
            tracked.log_metrics(corpus_metrics(results, scores.system))
            if weights_digest:
                training = {"bonafide.job": "train", "bonafide.weights": weights_digest}
                tracked.log_to_others(training, training_metrics(results, scores, settings))
            for name, data in files.items():
                tracked.log_file(data, name)
        if tracked.url:
            urls.append(tracked.url)
    return urls


def run_note(results: Results, scores: ScoreSet) -> str:
    """Summarise the EERs of a system in Markdown, for the page of its run."""
    rows = []
    for corpus in results.corpora_and_totals:
        measurement = results.measurements.get((scores.system, corpus, "all", "all"))
        eer = measurement.metrics["eer"] if measurement else None
        if measurement is not None and eer is not None:
            interval = measurement.intervals.get("eer")
            span = "–" if interval is None else " – ".join(map(percent, interval))
            counts = f"{measurement.num_bonafide:,} | {measurement.num_spoof:,}"
            rows.append(f"| {corpus} | {percent(eer)} | {span} | {counts} |")
    return "\n".join(
        [
            f"**{scores.system}**, EER by the definition “{results.settings.definition}”; curves, intervals and "
            f"groups are in the artifact `{layout.REPORT_PAGE}`.",
            "",
            "| corpus | EER % | 95 % interval | bona fide | spoof |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            *(
                f"- {each.corpus}: {each.first} and {each.second}: {each.in_words()}"
                for each in results.comparisons
                if scores.system in (each.first, each.second)
            ),
        ]
    )


def corpus_metrics(results: Results, system: str) -> dict[str, float]:
    """Collect the metrics of a system as `METRIC/CORPUS`, with characters that MLflow allows; every EER first.

    Thresholds and intervals are left out; the files of the report have them. The purities of the embeddings, corrected
    for chance, are `label_purity_corrected/LAYER` and `corpus_purity_corrected/LAYER`, and rates over time are
    METRIC/CORPUS as well.
    """
    layer = results.settings.layer
    embedded = results.measurements.get((system, POOLED, EMBEDDINGS, layer))
    purities = {f"{name}_purity_corrected": embedded for name in PURITIES if embedded}
    over_time = () if results.over_time is None else results.over_time.measurements
    return (
        {
            f"{metric}/{_metric_name(corpus)}": value
            for metric in METRICS
            if metric not in UNAVERAGED
            for corpus in results.corpora_and_totals
            if (measurement := results.measurements.get((system, corpus, "all", "all"))) is not None
            if (value := measurement.metrics[metric]) is not None
        }
        | {
            f"{metric}/{layer}": value
            for metric, measurement in purities.items()
            if (value := measurement.metrics[metric]) is not None
        }
        | {
            f"{metric}/{_metric_name(each.corpus)}": value
            for each in over_time
            if each.system == system
            for metric in SHARES
            if (value := each.metrics[metric]) is not None
        }
    )


def training_metrics(results: Results, scores: ScoreSet, settings: Mapping[str, Any]) -> dict[str, float]:
    """Collect TRAINING_METRICS of each corpus for the run of a training, with the names of `corpus_metrics`.

    Values of one name must be comparable, so a choice that is not in USUAL is part of the name, as in
    `eer window_4_mean/CORPUS`, and what depends on the other corpora of an evaluation (MEAN, POOLED) is left out.
    """
    chosen = {**scores.identity, **settings}
    choices = {name: str(chosen.get(name) or usual[0]) for name, usual in USUAL.items()}
    choices["recipe"] = PurePosixPath(choices["recipe"]).stem
    suffix = "".join(f" {_metric_name(value)}" for name, value in choices.items() if value not in USUAL[name])
    return {
        f"{metric}{suffix}/{corpus}": value
        for name, value in corpus_metrics(results, scores.system).items()
        for metric, _, corpus in [name.partition("/")]
        if metric in TRAINING_METRICS and corpus not in (MEAN, POOLED)
    }


def _metric_name(text: str) -> str:
    """A text without characters that MLflow refuses in the name of a metric, and without slashes."""
    return re.sub(r"[^\w.\- ]", "_", text)
