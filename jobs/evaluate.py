"""Turn scores into error rates: a table, JSON and Parquet, and one HTML report.

bonafide evaluate --scores SCORES[,SCORES2...] --out REPORT
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Annotated

from pipeline import tracking
from pipeline.config import run, to_dict, to_toml
from pipeline.data.corpora.recipe import Recipe, RecipeName, load_recipe
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.files import to_files
from pipeline.evaluation.measure import Settings, evaluate
from pipeline.evaluation.mlflow_runs import log_to_mlflow
from pipeline.evaluation.page import eer_table
from pipeline.evaluation.scores import find_score_folders, load_scores, with_unique_names
from pipeline.fields import Location, Locations, Range, Seed
from pipeline.metrics import Definition
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
    """Bootstrap resamples for the 95 % interval of each EER."""
    seed: Seed = 0
    """Seed of the bootstrap."""
    recipe: RecipeName = ""
    """Name or TOML file of a recipe, which decides the artifacts that count as spoof; default: all do."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow server or database; default: no tracking."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""

    def __post_init__(self) -> None:
        tracking.check_flags(self.tracking_uri, self.experiment)
        if self.out in self.scores:
            raise InputError(f"--out {self.out} is in --scores; give the report a folder of its own")


def main(config: EvaluateConfig) -> None:
    """Read the scores, measure error rates, and write the report."""
    continue_without_output()
    tracking.check(config.tracking_uri, config.experiment)
    out = Folder(config.out)
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    folders = [folder for location in config.scores for folder in find_score_folders(Folder(location))]
    score_sets = with_unique_names([load_scores(folder) for folder in folders])
    score_sets = [replace(scores, rows=recipe.relabel(scores.rows)) for scores in score_sets]
    results = evaluate(score_sets, Settings(config.definition, config.num_bootstrap, config.seed))
    if recipe.bonafide_artifacts:
        warning = f"labels of recipe {recipe.name}: {', '.join(recipe.bonafide_artifacts)} count as bona fide"
        results = replace(results, warnings=[*results.warnings, warning])

    files = to_files(results)
    files[layout.CONFIG] = tracking.without_credentials(to_toml(config)).encode()
    for name, data in files.items():
        out.commit(name, data)
    for url in log_to_mlflow(
        results, files, uri=config.tracking_uri, experiment=config.experiment, settings=to_dict(config)
    ):
        print(f"MLflow: {url}")
    for warning in results.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{eer_table(results)}\n\nreport: {out.location(layout.REPORT_PAGE)}")


if __name__ == "__main__":
    sys.exit(run(main))
