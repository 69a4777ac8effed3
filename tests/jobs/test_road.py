"""Ingest, train, score and evaluate on small corpora, with real Ray and real MLflow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
from mlflow.tracking import MlflowClient

from jobs import evaluate, ingest, score, train
from jobs.ingestion.config import IngestConfig
from jobs.scoring.config import ScoreConfig
from jobs.training.config import TrainConfig
from pipeline.data.audio.flac import decode_flac
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.store.snapshot import load_snapshot, load_utterances
from pipeline.detector.config import OptimiserConfig, TrainingConfig
from pipeline.errors import InputError
from pipeline.fields import Names
from pipeline.metrics import equal_error_rate
from pipeline.storage import Folder
from pipeline.synthetic.corpora import write_demo_corpora

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

EVALUATION = Names(("fakeorreal", "in_the_wild"))


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A folder with the results of all four jobs."""
    folder = tmp_path_factory.mktemp("road")
    write_demo_corpora(folder / "data", minutes=2.5, num_workers=2)
    ingest.main(ingest_config(folder))
    train.main(
        TrainConfig(
            store=str(folder / "store"),
            out=str(folder / "training"),
            variant="tiny",
            batch=BatchConfig(max_seconds=8.0, num_buckets=2, crop_min_s=1.0, crop_max_s=2.0),
            training=TrainingConfig(
                OptimiserConfig(learning_rate=1e-3, num_warmup_steps=2, num_steps=6),
                precision="fp32",
                validate_every=3,
                checkpoint_every=3,
            ),
            tracking_uri=uri(folder),
        )
    )
    for system, file in (("untrained", "initial"), ("trained", "detector")):
        score.main(score_config(folder, system, file))
    evaluate.main(
        evaluate.EvaluateConfig(
            scores=Names(str(folder / "scores" / system) for system in ("untrained", "trained")),
            out=str(folder / "report"),
            tracking_uri=uri(folder),
        )
    )
    return folder


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def ingest_config(folder: Path) -> IngestConfig:
    return IngestConfig(
        root=str(folder / "data"), store=str(folder / "store"), shard_mib=1.0, tracking_uri=uri(folder)
    )


def score_config(folder: Path, system: str, file: str) -> ScoreConfig:
    return ScoreConfig(
        store=str(folder / "store"),
        checkpoint=str(folder / "training" / f"{file}.safetensors"),
        out=str(folder / "scores" / system),
        corpora=EVALUATION,
        system=system,
        part_seconds=20.0,
        num_workers=1,
        tracking_uri=uri(folder),
    )


def test_every_file_is_written_or_rejected(road: Path):
    snapshot = load_snapshot(Folder(str(road / "store")))
    assert len(snapshot.corpora) == 5
    for corpus in snapshot.corpora.values():
        assert corpus.written > 0
        assert corpus.found == corpus.written + sum(corpus.rejected.values())
    num_files = sum(1 for file in (road / "data").rglob("*") if file.suffix in (".wav", ".flac", ".mp3"))
    assert sum(corpus.found for corpus in snapshot.corpora.values()) == num_files


def test_shards_can_be_read_with_webdataset_and_match_their_index(road: Path):
    store = Folder(str(road / "store"))
    snapshot = load_snapshot(store)
    rows = {row["uid"]: row for row in load_utterances(store, snapshot).to_pylist()}
    seen = set()
    for tar in (road / "store" / "shards").rglob("*.tar"):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
            row = rows[sample["__key__"]]
            metadata = json.loads(sample["json"])
            assert (metadata["id"], metadata["label"]) == (row["id"], row["label"])
            assert len(decode_flac(sample["flac"])) == round(row["seconds"] * 16_000)
            assert sample["flac"] == tar.read_bytes()[row["offset"] : row["offset"] + row["num_bytes"]]
            seen.add(sample["__key__"])
    assert seen == set(rows)


def test_a_second_ingest_builds_nothing(road: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in (road / "store").rglob("*.tar")}
    snapshots = sorted((road / "store" / "snapshots").iterdir())
    ingest.main(ingest_config(road))
    assert re.search(r"\b0 to build\b", capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in (road / "store").rglob("*.tar")} == before
    assert sorted((road / "store" / "snapshots").iterdir()) == snapshots


def test_every_evaluation_utterance_has_one_score(road: Path):
    snapshot = load_snapshot(Folder(str(road / "store")))
    expected = sum(snapshot.corpora[name].written for name in EVALUATION)
    for system in ("untrained", "trained"):
        scores = pq.read_table(road / "scores" / system / "scores")
        assert len(scores) == len(set(scores["uid"].to_pylist())) == expected
        assert len(list((road / "scores" / system / "scores").iterdir())) > 1
        difference = scores["logit_bonafide"].to_numpy() - scores["logit_spoof"].to_numpy()
        assert (difference == scores["score"].to_numpy()).all()


def test_resumed_scoring_scores_only_the_missing_parts(road: Path):
    scores = road / "scores" / "trained"
    parts = sorted((scores / "scores").iterdir())
    before = {part: (part.read_bytes(), part.stat().st_mtime_ns) for part in parts}
    missing = parts[::2]
    for path in (*missing, scores / "scores.json"):
        path.unlink()  # as if the scoring had been killed before it wrote them
    score.main(score_config(road, "trained", "detector"))
    assert sorted((scores / "scores").iterdir()) == parts
    assert {part: part.read_bytes() for part in parts} == {part: data for part, (data, _) in before.items()}
    rewritten = [part for part in parts if part.stat().st_mtime_ns != before[part][1]]
    assert rewritten == missing
    assert (scores / "scores.json").exists()


def test_scores_of_another_detector_are_not_added_to_a_folder(road: Path):
    with pytest.raises(InputError, match="another weights_digest; choose another --out"):
        score.main(score_config(road, "trained", "initial"))


def test_the_report_shows_the_eer_of_both_detectors_on_each_corpus(road: Path):
    metrics = json.loads((road / "report" / "metrics.json").read_text())["metrics"]
    page = (road / "report" / "report.html").read_text()
    assert set(metrics) == {"untrained", "trained"}
    for corpus in EVALUATION:
        rates = {}
        for system in metrics:
            rows = pq.read_table(road / "scores" / system / "scores").to_pandas().query("corpus == @corpus")
            bonafide, spoof = (rows.score[rows.label == label] for label in ("bonafide", "spoof"))
            rates[system] = equal_error_rate(bonafide, spoof).eer
            assert metrics[system][corpus]["all"]["all"]["eer"] == rates[system]
        # The row of the first table: the corpus, then one cell per system, with its interval behind the rate.
        cells = "".join(
            rf"<td[^>]*>{100 * rates[system]:.2f}<small>[^<]*</small></td>"
            for system in ("untrained", "trained")
        )
        assert re.search(rf"<th[^>]*>{corpus}</th>{cells}", page)


def test_mlflow_links_the_runs_of_the_four_jobs(road: Path):
    client = MlflowClient(uri(road))
    experiment = client.get_experiment_by_name("bonafide")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_id = {run.info.run_id: run for run in runs}
    jobs = {run.info.run_id: run.data.tags["bonafide.job"] for run in runs}
    digest = load_snapshot(Folder(str(road / "store"))).digest

    run_id = next(run_id for run_id, job in jobs.items() if job == "evaluate")
    chain = []
    while run_id in jobs:
        chain.append(jobs[run_id])
        run_id = by_id[run_id].data.tags.get("mlflow.parentRunId", "")
    assert chain == ["evaluate", "score", "train", "ingest"]
    for run in runs:
        if jobs[run.info.run_id] in ("ingest", "train", "score"):
            assert digest in {dataset_input.dataset.digest for dataset_input in run.inputs.dataset_inputs}
        assert run.info.status == "FINISHED"
