"""Fit the map that turns the scores of a detector into log-likelihood ratios, and choose a threshold.

    bonafide calibrate --scores VALIDATION_SCORES --out CALIBRATION.json
    bonafide calibrate --scores VALIDATION_SCORES --out CALIBRATION.json --false-alarm 0.01 --detector FILE
    bonafide calibrate --scores VALIDATION_SCORES --out CALIBRATION.json --detector models:/NAME/3 --tracking-uri URI

The scores should be of utterances that neither trained the detector nor chose its checkpoint. A calibration holds for
one window policy and one precision, and what was fitted on one corpus need not hold on another.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

from jobs.calibration_target import CalibrationTarget
from pipeline import tracking
from pipeline.config import run, to_dict
from pipeline.data.corpora.recipe import Recipe, RecipeName, load_recipe
from pipeline.errors import InputError
from pipeline.evaluation.calibration import Calibration, fit, fit_frames
from pipeline.evaluation.complete import find_score_folder
from pipeline.evaluation.frames import has_frames
from pipeline.evaluation.scores import ScoreSet, load_scores
from pipeline.fields import Checkpoint, Location, OutputFile, PositiveOrZero, Range
from pipeline.metrics import ASVSPOOF5, cllr, decisions, operating_points
from pipeline.metrics.calibration import threshold_for
from pipeline.metrics.isotonic import cllr_min_of
from pipeline.metrics.timeline import NonSpeech
from pipeline.storage import Folder
from pipeline.streams import continue_without_output


@dataclass(frozen=True)
class CalibrateConfig:
    """Which scores to fit, for which prior and threshold, and where to store the calibration."""

    scores: Location
    """Folder that `bonafide score` wrote for one window policy, with labels: best of utterances that neither trained
    the detector nor chose its checkpoint."""
    out: OutputFile
    """JSON file for the calibration, local or s3://."""
    prior: Annotated[float, Range(1e-6, 1 - 1e-6)] = ASVSPOOF5.effective_prior
    """Prior of bona fide at which the log-likelihood ratios shall cost least; by default that of ASVspoof 5 with its
    costs."""
    false_alarm: Annotated[float, Range(0, 0.5)] = 0.0
    """Choose the threshold that accepts at most this share of new spoof utterances, with 95 % confidence; 0: none."""
    threshold: Annotated[float, Range(-1e3, 1e3, also=math.inf)] = math.inf
    """Instead of a rate: the natural-log likelihood ratio from which an utterance counts as bona fide; inf: none."""
    smoothing: PositiveOrZero = 0.2
    """Where frames and regions are known, a threshold of frames is chosen too, with scores averaged over a centred
    window of so many seconds; 0: they are not."""
    non_speech: NonSpeech = "excluded"
    """What regions of non-speech count as for the threshold of frames: nothing, or bona fide speech."""
    detector: Checkpoint = ""
    """Store the calibration with the detector, too: in the metadata of its safetensors file, local or s3://, or, for
    models:/NAME/VERSION, in a tag of the version and in the file that it refers to."""
    recipe: RecipeName = ""
    """Name or TOML file of a recipe, which decides the artifacts that count as spoof; default: all do."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow server or database; default: no tracking."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""

    def __post_init__(self) -> None:
        if self.false_alarm and math.isfinite(self.threshold):
            raise InputError("--false-alarm and --threshold both choose a threshold; give one of them")
        if self.out == self.detector:
            raise InputError(
                f"--out {self.out} is --detector as well; give the calibration a file of its own"
            )
        tracking.check_flags(self.tracking_uri, self.experiment)


def main(config: CalibrateConfig) -> None:
    """Fit the calibration, write it, and store it with the detector."""
    continue_without_output()
    tracking.check(config.tracking_uri, config.experiment)
    out, name = Folder.of_file(config.out)
    scores = load_scores(
        find_score_folder(Folder(config.scores)), load_recipe(config.recipe) if config.recipe else Recipe()
    )
    calibration = fit(
        scores,
        config.prior,
        false_alarm=config.false_alarm or None,
        llr=config.threshold if math.isfinite(config.threshold) else None,
    )
    calibration = replace(
        calibration, frame_threshold=fit_frames(scores, config.smoothing, config.non_speech)
    )
    target = CalibrationTarget.find(config.detector, config.tracking_uri) if config.detector else None
    if target is not None:
        target.check(calibration)
    costs = measure(calibration, scores)
    with track(config, calibration, costs, scores) as url:
        out.commit(name, calibration.to_json().encode())
        print("\n".join(describe(calibration, costs, scores)))
        print(f"calibration: {config.out}")
        if target is not None:
            for line in target.store(calibration):
                print(line)
    if url:
        print(f"MLflow: {url}")


@dataclass(frozen=True)
class Costs:
    """Cllr of the scores of a calibration, in bits."""

    before: float
    """Of the scores as they are."""
    after: float
    """Of the log-likelihood ratios."""
    lowest: float
    """Of the best increasing map of these scores."""


def measure(calibration: Calibration, scores: ScoreSet) -> Costs:
    """Measure what a calibration gains on the scores that it was fitted on."""
    trials = scores.utterances.trials()
    bonafide, spoof = trials.by_class
    return Costs(
        cllr(bonafide, spoof),
        cllr(calibration.llr(bonafide), calibration.llr(spoof)),
        cllr_min_of(operating_points(trials)),
    )


def describe(calibration: Calibration, costs: Costs, scores: ScoreSet) -> list[str]:
    """Describe a calibration in a few lines for the console."""
    sign = "-" if calibration.offset < 0 else "+"
    return [
        f"{calibration.system}, {calibration.key}, on {calibration.num_bonafide:,} bona fide and "
        f"{calibration.num_spoof:,} spoof utterances of {', '.join(calibration.corpora)}:",
        f"  llr = {calibration.scale:.4g} × score {sign} {abs(calibration.offset):.4g}, "
        f"fitted at a prior of bona fide of {calibration.prior:.3g}",
        f"  Cllr {costs.before:.3f} bits before, {costs.after:.3f} after; {costs.lowest:.3f} is the lowest that any "
        "increasing map reaches on these utterances",
        *(f"  {line}" for line in describe_threshold(calibration, scores)),
        *(f"  {line}" for line in describe_frame_threshold(calibration, scores)),
    ]


def describe_threshold(calibration: Calibration, scores: ScoreSet) -> list[str]:
    """Say what the threshold of a calibration promises, and what it does with the utterances of the calibration."""
    chosen = calibration.threshold
    if chosen is None:
        return ["no threshold, so scores get no verdict; choose one with --false-alarm or --threshold"]
    bonafide, spoof = map(calibration.llr, scores.utterances.trials().by_class)
    rates = decisions(bonafide, spoof, chosen.llr)
    lines = [
        f"bona fide from llr {chosen.llr:.3f}: rejects {100 * rates.miss:.2f} % of these bona fide utterances and "
        f"accepts {100 * rates.false_alarm:.2f} % of these spoof utterances"
    ]
    if chosen.false_alarm is not None and chosen.is_guaranteed:
        lines.append(
            f"accepts at most {100 * chosen.false_alarm:g} % of new spoof utterances like these, with 95 % confidence"
        )
    elif chosen.false_alarm is not None:
        num_needed = threshold_for(spoof, chosen.false_alarm).num_needed
        lines.append(
            f"a false alarm rate of {100 * chosen.false_alarm:g} % cannot be promised with "
            f"{calibration.num_spoof:,} spoof utterances; {num_needed:,} are needed"
        )
    return lines


def describe_frame_threshold(calibration: Calibration, scores: ScoreSet) -> list[str]:
    """Say what the threshold of frames does with the utterances of the calibration; nothing without frames."""
    chosen = calibration.frame_threshold
    if chosen is not None:
        return [
            f"frames {chosen.in_words()}, are spoofed below the score {chosen.score:.3f}: rejects "
            f"{100 * chosen.range_eer:.2f} % of {chosen.bonafide_seconds / 60:.1f} min of bona fide time and accepts "
            f"as much of {chosen.spoof_seconds / 60:.1f} min of spoofed time, in {chosen.num_utterances:,} utterances"
        ]
    if has_frames(scores.identity):
        return ["no threshold of frames: no regions of bona fide and of spoofed time are known"]
    return []


@contextmanager
def track(
    config: CalibrateConfig, calibration: Calibration, costs: Costs, scores: ScoreSet
) -> Iterator[str | None]:
    """Open the MLflow run of a calibration, below the run that made its scores, and log it; yields its URL."""
    with tracking.run(
        config.tracking_uri,
        config.experiment,
        job="calibrate",
        name=f"calibrate {calibration.system}",
        parent=scores.run_id,
        tags={
            "bonafide.system": calibration.system,
            "bonafide.weights": calibration.weights_digest,
            "bonafide.policy": calibration.policy,
            "bonafide.precision": calibration.precision,
        },
        config=to_dict(config),
        weights=calibration.weights_digest,
    ) as tracked:
        tracked.describe("\n\n".join(line.strip() for line in describe(calibration, costs, scores)))
        metrics = {"scale": calibration.scale, "offset": calibration.offset}
        metrics |= {"cllr_before": costs.before, "cllr_after": costs.after, "cllr_lowest": costs.lowest}
        if calibration.threshold is not None:
            metrics["threshold"] = calibration.threshold.llr
        if calibration.frame_threshold is not None:
            metrics["frame_threshold"] = calibration.frame_threshold.score
            metrics["range_eer"] = calibration.frame_threshold.range_eer
        tracked.log_metrics({f"calibration/{key}": value for key, value in metrics.items()})
        tracked.log_text(calibration.to_json(), "calibration.json")
        yield tracked.url


if __name__ == "__main__":
    sys.exit(run(main))
