"""Tell whether new utterances differ from earlier ones, by the embeddings and scores of a detector.

    bonafide drift --fit SCORES --out REFERENCE.parquet
    bonafide drift --reference REFERENCE.parquet --new SCORES --out DRIFT

The first line stores utterances to compare with, the second compares others with them. The exit status of the second is
1 if they have drifted, and 0 if not, so that a scheduled job can act on it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from jobs.report_output import publish, settings_file
from pipeline import tracking
from pipeline.config import run
from pipeline.drift import layout
from pipeline.drift.compare import compare
from pipeline.drift.files import to_files
from pipeline.drift.loading import NO_LAYER, load_sample
from pipeline.drift.mlflow_runs import log_to_mlflow
from pipeline.drift.page import describe, headline
from pipeline.drift.reference import fit, load_reference
from pipeline.drift.results import Settings
from pipeline.errors import InputError
from pipeline.evaluation.layout import HEAD_LAYER, SPECTRUM_LAYER
from pipeline.evaluation.utterances import ClusterKind
from pipeline.fields import Location, Range, Reader, Seed
from pipeline.storage import Folder
from pipeline.streams import continue_without_output

MAX_TESTS = 4
"""Duration and level of two classes are tested together."""


def _layer(text: str) -> str:
    if text not in (HEAD_LAYER, SPECTRUM_LAYER, NO_LAYER) and not text.isdecimal():
        raise ValueError
    return text


@dataclass(frozen=True)
class DriftConfig:
    """What to compare with what, and when to raise the alarm."""

    out: Location
    """With --fit, a Parquet file for the reference, which usually ends in .parquet; with --new, a folder for the
    report. Local or s3://."""
    fit: Location = ""
    """Folder that `bonafide score` wrote, to store as a reference: best of utterances that did not train the detector,
    with labels, and scored with --embeddings."""
    reference: Location = ""
    """File that --fit wrote."""
    new: Location = ""
    """Folder that `bonafide score` wrote with the same detector, window, precision and layer, to compare with the
    reference."""
    layer: Annotated[str, Reader(_layer, "head, spectrum, the number of a layer, or none")] = HEAD_LAYER
    """With --fit: the layer whose embeddings are compared, as in `score --layer`; none compares scores, durations and
    levels only, and so do scores without embeddings."""
    max_rows: Annotated[int, Range(100, 1_000_000)] = 20_000
    """With --fit: utterances that the reference may have; of more, a share of each corpus, label and attack is chosen
    by hash."""
    alarm: Annotated[float, Range(0.0001, 0.5)] = Settings.alarm
    """Raise the alarm, with exit status 1, if p is below this: that of the primary test, adjusted for the number of
    classes."""
    min_effect: Annotated[float, Range(0, 10)] = Settings.min_effect
    """And only if the effect is at least this: how far the average component of the embeddings has moved beyond chance,
    in standard deviations of the reference; without embeddings, the Kolmogorov-Smirnov distance beyond chance."""
    clusters: ClusterKind = "auto"
    """With --fit: utterances that are divided and permuted together, in all comparisons with the reference: those of a
    speaker, of a source file, or each on its own (utterance). auto: of a speaker, or of a source file where no speaker
    is stated."""
    num_permutations: Annotated[int, Range(19, 100_000)] = Settings.num_permutations
    """Permutations for p."""
    max_compared: Annotated[int, Range(50, 10_000)] = Settings.max_compared
    """Utterances of each side and class that are compared; of more, whole speakers or files are left out by hash, and
    of fewer than 200, utterances of all. Time and memory grow with the square."""
    seed: Seed = 0
    """Seed of the permutations and random directions."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow server or database; default: no tracking."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""

    def __post_init__(self) -> None:
        tracking.check_flags(self.tracking_uri, self.experiment)
        if bool(self.fit) == bool(self.reference or self.new) or bool(self.reference) != bool(self.new):
            raise InputError("give either --fit SCORES, or --reference REFERENCE.parquet and --new SCORES")
        if self.out in (self.fit, self.reference, self.new):
            raise InputError(f"--out {self.out} is an input as well; give it a name of its own")
        if MAX_TESTS / (1 + self.num_permutations) >= self.alarm:
            raise InputError(
                f"--num-permutations {self.num_permutations} cannot give a p below --alarm {self.alarm:g} after the "
                f"adjustment for {MAX_TESTS} tests; give at least {int(MAX_TESTS / self.alarm)}"
            )

    @property
    def settings(self) -> Settings:
        """How to compare."""
        return Settings(self.alarm, self.min_effect, self.num_permutations, self.max_compared, self.seed)


def main(config: DriftConfig) -> int:
    """Fit a reference, or compare with one; returns the exit status."""
    continue_without_output()
    if config.fit:
        fit_reference(config)
        return 0
    tracking.check(config.tracking_uri, config.experiment)
    return compare_with_reference(config)


def fit_reference(config: DriftConfig) -> None:
    """Store the utterances of a SCORES folder as a reference."""
    folder, name = Folder.of_file(config.out)
    sample, scored = load_sample(config.fit, config.layer)
    reference = fit(sample, scored, config.max_rows, config.clusters)
    folder.commit(name, reference.to_parquet())
    print("\n".join(describe(reference)))
    print(f"reference: {config.out}")


def compare_with_reference(config: DriftConfig) -> int:
    """Compare a SCORES folder with a reference, and write the report; returns the exit status."""
    out = Folder(config.out)
    reference = load_reference(config.reference)
    if config.clusters not in (reference.clusters, DriftConfig.clusters):
        raise InputError(
            f"{config.reference}: was divided by --clusters {reference.clusters}, so it cannot be compared by "
            f"--clusters {config.clusters}; fit another one with it"
        )
    new, scored = load_sample(config.new, reference.sample.layer or NO_LAYER)
    results = compare(reference, new, scored, config.settings)
    files = to_files(results) | {layout.CONFIG: settings_file(config)}
    publish(config, files, results.warnings, partial(log_to_mlflow, results))
    print(headline(results))
    print(f"report: {out.location(layout.DRIFT_PAGE)}")
    if results.is_alarm:
        print(f"bonafide drift: {headline(results)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
