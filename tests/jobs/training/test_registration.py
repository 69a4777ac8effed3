"""The run of a training in MLflow, its registered detector, and the page of its validations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient
from ray.train import Checkpoint

from jobs import score, train
from jobs.scoring.config import ScoreConfig
from jobs.training.config import TrainConfig
from jobs.training.folder import METRICS, validation_name, weights_name
from jobs.training.record import TrainingRecord
from jobs.training.registration import validation_digest
from jobs.training.reporter import Reporter, _Pending
from jobs.training.validation_log import ValidationLog
from pipeline import lease, tracking
from pipeline.detector.checkpoint import load_detector
from pipeline.detector.state import TrainingProgress
from pipeline.detector.validation import Validation
from pipeline.errors import InputError
from pipeline.evaluation.validation_page import ValidationScores, from_table
from pipeline.metrics import Group, GroupedScores
from pipeline.storage import STAGED_SUFFIX, Folder
from tests.detector.toys import assert_same_weights, toy_detector
from tests.jobs.training.trainings import config, metrics, result_of, tracking_uri

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

SCORES = GroupedScores(
    {Group("mlaad"): np.array([0.1, 1.0, 2.0]), Group("mlaad", "x"): np.array([-1.0, 0.5])}
)


def test_the_best_detector_is_registered_once(
    place: Path, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(config(place, whole))  # again, which trains nothing
    assert "registered as models:/bonafide-tiny/1\n" in capsys.readouterr().out
    found = tracking.find_version(tracking_uri(place), "models:/bonafide-tiny@best")
    result = result_of(place, whole)
    assert found.number == 1
    assert found.source == str(place / whole / "detector.safetensors")
    assert found.tags["weights"] == result.weights
    assert float(found.tags["eer"]) == float(found.tags["error"]) == result.error_rates["pooled"]
    assert float(found.tags["mean_eer_attacks"]) == result.error_rates["attacks"]
    assert found.tags["selected_by"] == "pooled"
    assert int(found.tags["step"]) == result.best_step
    assert found.tags["snapshot"] == result.snapshot_digest
    # As many bona fide utterances as spoof ones are drawn.
    log_odds = load_detector(place / whole / "detector.safetensors").metadata["training_log_odds"]
    assert found.tags["training_log_odds"] == log_odds
    assert (
        float(log_odds) == result.training_log_odds == pytest.approx(0, abs=0.05)
    )  # as much of both classes
    versions = MlflowClient(tracking_uri(place)).search_model_versions("name = 'bonafide-tiny'")
    assert [int(version.version) for version in versions if version.tags["training"] == result.id] == [1]


def test_a_complete_training_without_a_run_is_tracked_and_registered_from_its_folder(
    place: Path, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, result = f"sqlite:///{tmp_path}/mlflow.db", result_of(place, whole)
    again = replace(config(place, whole), tracking_uri=uri)
    for _ in range(2):
        train.main(again)
        output = capsys.readouterr().out
        assert "already trained; nothing to do" in output
        assert "registered as models:/bonafide-tiny/1\n" in output
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bonafide")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["bonafide.weights"] == result.weights
    assert "registered as `models:/bonafide-tiny/1`" in run.data.tags["mlflow.note.content"]
    logged = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in ("train/loss", "validation/eer")
    }
    assert logged == {
        name: [(point["step"], point[name]) for point in metrics(place, whole) if name in point]
        for name in logged
    }
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.toml", "validation.html"}
    assert tracking.find_version(uri, "models:/bonafide-tiny@best").tags["training"] == result.id


def test_a_registered_detector_scores_a_bare_folder(place: Path, whole: str, tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    clip = next((place / "data").rglob("*.flac"))
    (audio / clip.name).write_bytes(clip.read_bytes())
    score.main(
        ScoreConfig(
            checkpoint="models:/bonafide-tiny@best",
            audio=str(audio),
            out=str(tmp_path / "scores"),
            num_workers=1,
            tracking_uri=tracking_uri(place),
        )
    )
    record = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert record["weights_digest"] == result_of(place, whole).weights
    assert record["num_utterances"] == 1
    run = MlflowClient(tracking_uri(place)).get_run(record["tracking"]["run_id"])
    assert run.data.tags["mlflow.parentRunId"] == result_of(place, whole).run_id


def test_the_scores_of_every_validation_are_kept_and_shown_on_the_page(place: Path, whole: str) -> None:
    folder = place / whole
    tables = {int(path.stem[-8:]): pq.read_table(path) for path in (folder / "validation").iterdir()}
    logged = {int(point["step"]): point for point in metrics(place, whole) if "validation/eer" in point}
    assert tables.keys() == logged.keys() == {20, 40, 60}
    for step, table in tables.items():
        found = from_table(step, table)
        prefix = "validation/ema" if found.weights == "ema" else "validation"
        assert found.rates == pytest.approx(
            {
                "all corpora": logged[step][f"{prefix}/eer"],
                "mean of corpora": logged[step][f"{prefix}/mean_eer/corpora"],
                "mean of attacks": logged[step][f"{prefix}/mean_eer/attacks"],
                "asvspoof2019_la": logged[step][f"{prefix}/eer/asvspoof2019_la"],
            },
            abs=1e-6,
        )
        assert set(table["attack"].to_pylist()) == {"", "A01"}
    page = (folder / "validation.html").read_text()
    assert "step 60" in page and "step 20 (first" in page
    client = MlflowClient(tracking_uri(place))
    uploaded = client.download_artifacts(str(result_of(place, whole).run_id), "validation.html")
    assert Path(uploaded).read_text() == page


def test_metrics_are_grouped_and_the_note_of_the_run_states_the_result(place: Path, whole: str) -> None:
    client = MlflowClient(tracking_uri(place))
    run = client.get_run(str(result_of(place, whole).run_id))
    assert {name.partition("/")[0] for name in run.data.metrics} == {"train", "speed", "validation"}
    assert {name for name in run.data.metrics if name.startswith("train/")} == {
        f"train/{name}"
        for name in ("loss", "gradient_norm", "learning_rate", "epoch", "skipped_steps", "one_class_share")
    }
    rates = result_of(place, whole).error_rates
    for name, rate in (
        ("eer", rates["pooled"]),
        ("mean_eer/corpora", rates["corpora"]),
        ("mean_eer/attacks", rates["attacks"]),
    ):
        assert run.data.metrics[f"validation/best/{name}"] == rate
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == sorted(set(steps))
    note = run.data.tags["mlflow.note.content"]
    assert "registered as `models:/bonafide-tiny/1` and `@best`" in note
    assert "1 corpora" in note and "snapshot 000001" in note
    assert run.data.tags["bonafide.checkpoint"].startswith(
        str(place / whole / "checkpoints" / "step_00000060")
    )


def test_trainings_are_comparable_if_they_validate_with_the_same_utterances() -> None:
    recipe: dict[str, object] = {"name": "a", "weights": {"x": 2.0}, "validation": ["*/validation"]}
    settings = {"recipe": recipe, "corpora": [], "training": {"select_by": "pooled", "patience": 1}}
    record = TrainingRecord("id", settings, "000001", "digest", "weights")
    changes = {"recipe": recipe | {"name": "b", "weights": {}}, "training": {"select_by": "pooled"}}
    same = replace(record, id="other", settings=settings | changes)
    other = replace(record, settings=settings | {"recipe": recipe | {"validation": ["mlaad"]}})
    selected = replace(record, settings=settings | {"training": {"select_by": "attacks"}})
    assert validation_digest(record) == validation_digest(same) != validation_digest(other)
    assert validation_digest(record) != validation_digest(replace(record, snapshot_digest="another"))
    assert validation_digest(record) != validation_digest(selected)


def test_a_name_that_mlflow_refuses_is_refused_before_the_training_starts() -> None:
    with pytest.raises(InputError, match="cannot name a registered model"):
        TrainConfig(store="s", out="o", register="a/{variant}")
    assert TrainConfig(store="s", out="o", register="").register == ""


def test_the_page_includes_validations_from_before_an_interruption(tmp_path: Path) -> None:
    with tracking.run("", "e", job="train", name="t", metrics_file=tmp_path / "metrics.jsonl") as run:
        for step, best in ((10, 10), (20, 20), (30, 20)):
            log = ValidationLog(Folder(str(tmp_path)), run, "t", "pooled")
            log.write(ValidationScores(step, SCORES))
            log.draw(step, best)
    page = (tmp_path / "validation.html").read_text()
    for words in ("step 10 (first)", "step 20 (best)", "step 30 (latest)"):
        assert words in page


def test_the_page_is_drawn_beside_files_that_are_not_finished(tmp_path: Path) -> None:
    unfinished = tmp_path / "validation" / f".step_00000005.parquet.0123{STAGED_SUFFIX}"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"PAR1")  # left by a killed worker
    file = tmp_path / "metrics.jsonl"
    with tracking.run("", "e", job="train", name="t", metrics_file=file) as run:
        file.write_text('{"step": 10, "validation/eer": 0.25}\n{"step": 20, "valid')  # being written
        log = ValidationLog(Folder(str(tmp_path)), run, "t", "pooled")
        log.write(ValidationScores(20, SCORES))
        log.draw(20, 20)
    page = (tmp_path / "validation.html").read_text()
    assert "step 20 (" in page
    assert "step 5 " not in page


def test_the_better_of_the_weights_and_their_average_is_saved(tmp_path: Path) -> None:
    out, detector = Folder(str(tmp_path)), toy_detector()
    raw = {name: weight.detach() for name, weight in detector.named_parameters()}
    average = {name: weight + 1 for name, weight in raw.items() if "proj_fc" in name}
    assert 0 < len(average) < len(raw)
    metadata = {"variant": "tiny", "training": "id"}
    with lease.held(out) as held, tracking.run("", "e", job="train", name="t") as run:
        reporter = Reporter(out, held.fence, detector, metadata, run, 0, 1, "attacks")
        for step, weights in ((10, "raw"), (20, "ema")):
            validation = Validation(weights, SCORES.error_rates, 5, SCORES)  # type: ignore[arg-type]
            reporter._save_weights(step, validation, {"detector": raw, "average": average})
    for step, weights, expected in ((10, "raw", raw), (20, "ema", raw | average)):
        loaded = load_detector(tmp_path / weights_name(step))
        assert_same_weights(loaded.detector.state_dict(), expected)
        described = {"step": str(step), "weights": weights, "selected_by": "attacks"}
        eer = str(SCORES.error_rates.pooled)
        rates = {"eer": eer, "mean_eer_corpora": eer, "mean_eer_attacks": eer}
        assert (described | rates).items() <= loaded.metadata.items()


def test_metrics_and_scores_are_stored_before_the_checkpoint_that_contains_them(
    bucket: str, tmp_path: Path
) -> None:
    out = Folder(f"{bucket}/run")
    validation = Validation("raw", SCORES.error_rates, 5, SCORES)
    metadata = {"variant": "tiny", "training": "id"}
    file = tmp_path / "metrics.jsonl"
    with lease.held(out) as held, tracking.run("", "e", job="train", name="t", metrics_file=file) as run:
        reporter = Reporter(out, held.fence, toy_detector(), metadata, run, 0, 1, "pooled")
        run.write_metrics({"train/loss": 0.5}, 40)
        lines = file.read_bytes()
        pending = _Pending(TrainingProgress(step=40, best_step=40), {}, validation, reporter._read_metrics())
        file.unlink()  # as if another rank had died during the upload
        (tmp_path / "local").mkdir()
        with pytest.raises(FileNotFoundError):  # in place of a death at the start of the commit
            reporter._upload(pending, Checkpoint.from_directory(str(tmp_path / "local")), "step_00000040-0")
    assert out.exists(validation_name(40))
    assert out.read(METRICS) == lines
