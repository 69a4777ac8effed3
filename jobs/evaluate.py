"""Turn scores into error rates: a table, JSON and Parquet, and one HTML report.

bonafide evaluate --scores SCORES[,SCORES2...] --out REPORT
"""

import io
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import tracking
from pipeline.config import Names, run, to_dict, to_toml
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.errors import InputError
from pipeline.evaluation.measure import METRICS, Results, Settings, evaluate, to_table
from pipeline.evaluation.page import eer_table, identity, to_page
from pipeline.evaluation.scores import ScoreSet, load_scores, with_own_names
from pipeline.metrics import Definition
from pipeline.storage import Folder


@dataclass(frozen=True)
class EvaluateConfig:
    """What to compare and where the report goes."""

    scores: Names
    """Folders that `bonafide score` wrote, separated by commas; systems stand side by side in this order."""
    out: str
    """Folder of the report: metrics.json, metrics.parquet, report.html, config.toml."""
    definition: Definition = "bonafide"
    """How the EER is read off the scores: bonafide, asvspoof, arena or roc."""
    num_bootstrap: int = 1000
    """Resamples behind the 95 % interval of each EER."""
    seed: int = 0
    """Seed of the resampling."""
    recipe: str = ""
    """Name or TOML file of a recipe whose labels count: which artifacts are spoof. By default all are."""
    tracking_uri: str = ""
    """MLflow server or database; empty: no tracking."""
    experiment: str = "bonafide"
    """MLflow experiment."""


def main(config: EvaluateConfig) -> None:
    """Read the scores, measure, and write the report."""
    if not config.scores:
        raise InputError("--scores is empty; give at least one folder that bonafide score wrote")
    out = Folder(config.out)
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    score_sets = with_own_names(
        [relabelled(load_scores(Folder(location)), recipe) for location in config.scores]
    )
    results = evaluate(score_sets, Settings(config.definition, config.num_bootstrap, config.seed))
    if recipe.bonafide_artifacts:
        policy = f"labels of recipe {recipe.name}: {', '.join(recipe.bonafide_artifacts)} count as bona fide"
        results = replace(results, warnings=[*results.warnings, policy])
    files = {
        "metrics.json": to_json(results),
        "metrics.parquet": to_parquet(results),
        "report.html": to_page(results).to_html().encode(),
        "config.toml": tracking.without_credentials(to_toml(config)).encode(),
    }
    for name, data in files.items():
        out.commit(name, data)
    track(config, results, files)
    for warning in results.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{eer_table(results)}\n\nreport: {out.location('report.html')}")


def relabelled(scores: ScoreSet, recipe: Recipe) -> ScoreSet:
    """The same scores, with the labels that a recipe gives."""
    return replace(scores, rows=recipe.relabel(scores.rows))


def to_json(results: Results) -> bytes:
    """Identity of the systems, settings, warnings, and metrics by system, corpus, group and key."""
    tree: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for (system, corpus, group, key), each in results.measurements.items():
        counts = {"num_bonafide": each.num_bonafide, "num_spoof": each.num_spoof}
        keys = tree.setdefault(system, {}).setdefault(corpus, {}).setdefault(group, {})
        keys[key] = {**counts, **each.metrics}
    report = {
        "settings": to_dict(results.settings),
        "systems": {scores.system: identity(scores) for scores in results.score_sets},
        "warnings": list(results.warnings),
        "metrics": tree,
    }
    return json.dumps(report, indent=2, ensure_ascii=False).encode()


def to_parquet(results: Results) -> bytes:
    """All measurements in long form."""
    buffer = io.BytesIO()
    pq.write_table(to_table(results.measurements.values()), buffer)
    return buffer.getvalue()


def track(config: EvaluateConfig, results: Results, files: Mapping[str, bytes]) -> None:
    """One run a system, below the run that made its scores, so that the table of runs compares systems.

    Metrics are called `eer/CORPUS` and so on, the same for every system; the files are those of all systems.
    """
    for scores in results.score_sets:
        shown = ("checkpoint", "snapshot", "policy", "precision", "variant")
        tags = {f"bonafide.{name}": scores.identity.get(name) for name in shown}
        others = [system for system in results.systems if system != scores.system]
        with (
            tracking.run(
                config.tracking_uri,
                config.experiment,
                job="evaluate",
                name=f"evaluate {scores.system}",
                parent_run_id=scores.run_id,
                tags=tags
                | {
                    "bonafide.system": scores.system,
                    "bonafide.weights": scores.identity.get("weights_digest"),
                    "bonafide.compared_with": ", ".join(others) or None,
                },
                config=to_dict(config),
                model_id=tracking.find_model(
                    config.tracking_uri, config.experiment, str(scores.identity.get("weights_digest"))
                ),
            ) as tracked,
            tempfile.TemporaryDirectory() as folder,
        ):
            tracked.describe(note(results, scores, config))
            tracked.log_metrics(tracked_metrics(results, scores.system))
            for name, data in files.items():
                path = Path(folder, name)
                path.write_bytes(data)
                tracked.log_artifact(path)
        if tracked.url:
            print(f"MLflow: {tracked.url}")


def note(results: Results, scores: ScoreSet, config: EvaluateConfig) -> str:
    """What somebody who opens the run wants to know first, in Markdown."""
    rows = []
    for corpus in results.corpora_and_totals:
        each = results.measurements.get((scores.system, corpus, "all", "all"))
        eer = each.metrics["eer"] if each else None
        if each is not None and eer is not None:
            rows.append(f"| {corpus} | {100 * eer:.2f} | {each.num_bonafide:,} | {each.num_spoof:,} |")
    return "\n".join(
        [
            f"**{scores.system}**, the EER by the definition “{config.definition}”; curves, intervals and breakdowns "
            "are in the artifact `report.html`.",
            "",
            "| corpus | EER % | bona fide | spoof |",
            "|---|---:|---:|---:|",
            *rows,
        ]
    )


UNTRACKED = ("eer_low", "eer_high", "eer_threshold")
"""Metrics that say something only beside the one they belong to; the files have them."""


def tracked_metrics(results: Results, system: str) -> dict[str, float]:
    """The metrics of whole corpora as `metric/corpus`, in the characters that MLflow takes; every EER first."""
    return {
        metric + "/" + re.sub(r"[^\w.\- ]", "_", corpus): value
        for metric in METRICS
        if metric not in UNTRACKED
        for corpus in results.corpora_and_totals
        if (each := results.measurements.get((system, corpus, "all", "all"))) is not None
        if (value := each.metrics[metric]) is not None
    }


if __name__ == "__main__":
    sys.exit(run(main))
