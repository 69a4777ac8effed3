"""From a training to its report: two detectors score the same utterances, and a report compares them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from jobs import evaluate, score
from jobs.scoring.config import ScoreConfig
from pipeline.data.store.snapshot import load_snapshot
from pipeline.errors import InputError
from pipeline.fields import Names
from pipeline.metrics import equal_error_rate
from pipeline.storage import Folder
from tests.jobs.training.trainings import result_of, tracking_uri

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

CORPUS = "asvspoof2019_la"


@pytest.fixture(scope="module")
def report(place: Path, whole: str) -> Path:
    """The folder of a report about the untrained and the trained detector."""
    for system, file in (("untrained", "initial"), ("trained", "detector")):
        score.main(score_config(place, system, file))
    evaluate.main(
        evaluate.EvaluateConfig(
            scores=Names(str(place / "scores" / system) for system in ("untrained", "trained")),
            out=str(place / "report"),
            tracking_uri=tracking_uri(place),
        )
    )
    return place / "report"


def score_config(place: Path, system: str, file: str) -> ScoreConfig:
    return ScoreConfig(
        store=str(place / "store"),
        checkpoint=str(place / "whole" / f"{file}.safetensors"),
        out=str(place / "scores" / system),
        corpora=Names([CORPUS]),
        system=system,
        part_seconds=5.0,
        num_workers=1,
        tracking_uri=tracking_uri(place),
    )


def test_every_utterance_has_one_score(place: Path, report: Path):
    snapshot = load_snapshot(Folder(str(place / "store")))
    for system in ("untrained", "trained"):
        scores = pq.read_table(place / "scores" / system / "scores")
        assert len(scores) == len(set(scores["uid"].to_pylist())) == snapshot.corpora[CORPUS].written == 60
        assert len(list((place / "scores" / system / "scores").iterdir())) > 1
        difference = scores["logit_bonafide"].to_numpy() - scores["logit_spoof"].to_numpy()
        assert (difference == scores["score"].to_numpy()).all()


def test_resumed_scoring_scores_only_the_missing_parts(place: Path, report: Path):
    scores = place / "scores" / "trained"
    parts = sorted((scores / "scores").iterdir())
    before = {part: (part.read_bytes(), part.stat().st_mtime_ns) for part in parts}
    missing = parts[::2]
    for path in (*missing, scores / "scores.json"):
        path.unlink()  # as if the scoring had been killed before it wrote them
    score.main(score_config(place, "trained", "detector"))
    assert sorted((scores / "scores").iterdir()) == parts
    assert {part: part.read_bytes() for part in parts} == {part: data for part, (data, _) in before.items()}
    rewritten = [part for part in parts if part.stat().st_mtime_ns != before[part][1]]
    assert rewritten == missing
    assert (scores / "scores.json").exists()


def test_scores_of_another_detector_are_not_added_to_a_folder(place: Path, report: Path):
    with pytest.raises(InputError, match="another weights_digest; choose another --out"):
        score.main(score_config(place, "trained", "initial"))


def test_the_report_shows_the_eer_of_both_detectors(place: Path, report: Path):
    metrics = json.loads((report / "metrics.json").read_text())["metrics"]
    page = (report / "report.html").read_text()
    assert set(metrics) == {"untrained", "trained"}
    rates = {}
    for system in metrics:
        rows = pq.read_table(place / "scores" / system / "scores").to_pandas()
        bonafide, spoof = (rows.score[rows.label == label] for label in ("bonafide", "spoof"))
        rates[system] = equal_error_rate(bonafide, spoof).eer
        assert metrics[system][CORPUS]["all"]["all"]["eer"] == rates[system]
    assert rates["trained"] < rates["untrained"]
    # The row of the first table: the corpus, what is resampled, then one cell per system, with its interval.
    cells = "".join(
        rf"<td[^>]*>{100 * rates[system]:.2f}(<small>[^<]*</small>)?</td>"
        for system in ("untrained", "trained")
    )
    assert re.search(rf"<th[^>]*>{CORPUS}</th><td>[^<]*</td>{cells}", page)


def test_scores_and_report_say_what_the_detector_was_trained_on(place: Path, report: Path):
    description = json.loads((place / "scores" / "trained" / "scores.json").read_text())
    corpora = [
        name
        for name, corpus in load_snapshot(Folder(str(place / "store"))).corpora.items()
        if corpus.role == "train"
    ]
    assert description["training_corpora"] == sorted(corpora)
    assert math.isfinite(description["training_log_odds"])
    page = (report / "report.html").read_text()
    assert "Licences of the corpora that trained was trained on" in page
    assert "Cllr, prior of the training removed" in page


def test_mlflow_links_the_runs_of_the_four_jobs(place: Path, report: Path):
    client = MlflowClient(tracking_uri(place))
    experiment = client.get_experiment_by_name("bonafide")
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    jobs = {run_id: run.data.tags["bonafide.job"] for run_id, run in runs.items()}
    digest = load_snapshot(Folder(str(place / "store"))).digest

    run_id = next(run_id for run_id, job in jobs.items() if job == "evaluate")
    chain, training = [], None
    while run_id in runs:
        run = training = runs[run_id]
        chain.append(jobs[run_id])
        assert run.info.status == "FINISHED"
        if jobs[run_id] != "evaluate":
            assert run.inputs is not None
            assert digest in {dataset_input.dataset.digest for dataset_input in run.inputs.dataset_inputs}
        run_id = run.data.tags.get("mlflow.parentRunId", "")
    assert chain == ["evaluate", "score", "train"]
    assert training is not None
    rates = json.loads((report / "metrics.json").read_text())["metrics"]
    assert training.data.metrics[f"eer/{CORPUS}"] == rates["trained"][CORPUS]["all"]["all"]["eer"]
    assert training.info.run_id == result_of(place, "whole").run_id
    assert client.get_run(training.data.tags["bonafide.ingest"]).data.tags["bonafide.snapshot"] == digest
