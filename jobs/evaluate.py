"""Turn scores into error rates: a table, JSON and Parquet, and one HTML report.

bonafide evaluate --scores SCORES[,SCORES2...] --out REPORT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from jobs.report_output import publish, settings_file
from pipeline import tracking
from pipeline.config import run
from pipeline.data.corpora.recipe import Recipe, RecipeName, load_recipe
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import Calibration, load_calibration, stored_calibration
from pipeline.evaluation.claims import ClaimsName, Verdict, check_claims, load_claims
from pipeline.evaluation.complete import find_score_folders
from pipeline.evaluation.embeddings import Embeddings, layers_of, load_embeddings
from pipeline.evaluation.files import to_files
from pipeline.evaluation.measure import Settings
from pipeline.evaluation.mlflow_runs import log_to_mlflow
from pipeline.evaluation.page import eer_table
from pipeline.evaluation.results import evaluate
from pipeline.evaluation.scores import ScoreSet, load_scores, with_unique_names
from pipeline.evaluation.utterances import ClusterKind
from pipeline.fields import Location, Locations, Names, PositiveOrZero, Range, Seed
from pipeline.metrics import Definition
from pipeline.metrics.timeline import NonSpeech
from pipeline.storage import Folder
from pipeline.streams import continue_without_output


@dataclass(frozen=True)
class EvaluateConfig:
    """Which scores to compare, and where to write the report."""

    scores: Locations
    """Folders that `bonafide score` wrote, separated by commas; the report lists systems in this order. A folder with
    several window policies is one system for each."""
    out: Location
    """Folder or s3:// URI for the report."""
    definition: Definition = "bonafide"
    """How the EER is read off the scores. bonafide: mean of miss and false alarm rate where they differ least;
    asvspoof: the same without grouping equal scores; arena: linear interpolation around the crossing; roc: the false
    alarm rate where the two differ least."""
    num_bootstrap: Annotated[int, Range(1, 1_000_000)] = 1000
    """Bootstrap resamples for the 95 % intervals, and for the comparison of systems."""
    seed: Seed = 0
    """Seed of the bootstrap."""
    clusters: ClusterKind = "auto"
    """Utterances that are resampled together for the intervals: those of a speaker, of a source file, or each on its
    own (utterance). auto: of a speaker, or of a source file where no speaker is stated."""
    min_group: Annotated[int, Range(1, 1_000_000)] = 30
    """A group of utterances with fewer of a class shows counts only."""
    layer: str = layout.HEAD_LAYER
    """Whose embeddings are drawn, if `bonafide score --embeddings` wrote any: head, or the number of a hidden state."""
    perplexity: Annotated[float, Range(2, 1000)] = 30.0
    """Of the t-SNE of embeddings: about how many neighbours of an utterance are to stay near it."""
    max_points: Annotated[int, Range(10, 100_000)] = 5000
    """Utterances in the picture of embeddings, at most."""
    calibration: Locations = Names()
    """Files that `bonafide calibrate` wrote, separated by commas, each for a detector, window and precision; default:
    those that the scores were made with."""
    check: ClaimsName = ""
    """TOML file of claims about the metrics, or antideepfake for the published error rates of that paper; if a claim
    fails, the exit status is 2."""
    recipe: RecipeName = ""
    """Name or TOML file of a recipe, which decides the artifacts that count as spoof; default: all do."""
    smoothing: PositiveOrZero = 0.2
    """Scores of frames are averaged over a centred window of so many seconds; 0: they are not."""
    non_speech: NonSpeech = "excluded"
    """What regions of non-speech count as when frames are measured: nothing, or bona fide speech."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow server or database; default: no tracking."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""

    def __post_init__(self) -> None:
        tracking.check_flags(self.tracking_uri, self.experiment)
        if self.out in self.scores:
            raise InputError(f"--out {self.out} is in --scores; give the report a folder of its own")


def main(config: EvaluateConfig) -> int:
    """Read the scores, measure error rates, check claims, and write the report; returns the exit status."""
    continue_without_output()
    tracking.check(config.tracking_uri, config.experiment)
    out = Folder(config.out)
    claims = load_claims(config.check) if config.check else []
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    folders = [folder for location in config.scores for folder in find_score_folders(Folder(location))]
    score_sets = with_unique_names([load_scores(folder, recipe, config.clusters) for folder in folders])
    settings = Settings(
        config.definition,
        config.num_bootstrap,
        config.seed,
        config.clusters,
        config.min_group,
        config.layer,
        config.perplexity,
        config.max_points,
        config.smoothing,
        config.non_speech,
    )
    calibrations = choose_calibrations(score_sets, config.calibration)
    embeddings = choose_embeddings(score_sets, folders, config.layer)
    results = evaluate(score_sets, settings, calibrations, embeddings)
    if recipe.bonafide_artifacts:
        warning = f"labels of recipe {recipe.name}: {', '.join(recipe.bonafide_artifacts)} count as bona fide"
        results = replace(results, warnings=[*results.warnings, warning])
    verdicts = check_claims(claims, results)

    files = to_files(results, verdicts) | {layout.CONFIG: settings_file(config)}
    publish(config, files, results.warnings, partial(log_to_mlflow, results))
    print(eer_table(results))
    for comparison in results.comparisons:
        print(f"{comparison.corpus}: {comparison.first} and {comparison.second}: {comparison.in_words()}")
    print(f"\nreport: {out.location(layout.REPORT_PAGE)}")
    return print_verdicts(verdicts)


def choose_calibrations(score_sets: Sequence[ScoreSet], locations: Sequence[str]) -> dict[str, Calibration]:
    """Find the calibration of each system: among some files, or else the one that its scores were made with.

    Raises:
        InputError: a file is not a calibration, or not one of any of the systems.
    """
    stored = {scores.system: stored_calibration(scores.identity) for scores in score_sets}
    chosen = {system: calibration for system, calibration in stored.items() if calibration is not None}
    for location in locations:
        calibration = load_calibration(location)
        systems = [scores.system for scores in score_sets if calibration.is_for(scores.identity)]
        if not systems:
            calibration.check(score_sets[0].identity, location)
        chosen |= dict.fromkeys(systems, calibration)
    return chosen


def choose_embeddings(
    score_sets: Sequence[ScoreSet], folders: Sequence[Folder], layer: str
) -> dict[str, Embeddings]:
    """Load the embeddings of a layer for the systems that have them.

    Args:
        score_sets: the systems.
        folders: their scores.
        layer: its name.

    Raises:
        InputError: systems have embeddings, but none of them has those of the layer.
    """
    layers = {scores.system: layers_of(scores.identity) for scores in score_sets}
    known = list(dict.fromkeys(name for names in layers.values() for name in names))
    if known and layer not in known:
        raise InputError(
            f"--layer {layer}: no system has embeddings of this layer; they have {', '.join(known)}"
        )
    return {
        scores.system: load_embeddings(folder, layer)
        for scores, folder in zip(score_sets, folders, strict=True)
        if layer in layers[scores.system]
    }


def print_verdicts(verdicts: Sequence[Verdict]) -> int:
    """Print which claims hold and which fail, the latter on standard error; returns the exit status."""
    for verdict in verdicts:
        print(verdict, file=sys.stdout if verdict.holds else sys.stderr)
    num_failed = sum(not verdict.holds for verdict in verdicts)
    if num_failed:
        print(f"bonafide evaluate: {num_failed} of {len(verdicts)} claims fail", file=sys.stderr)
    return 2 if num_failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
