"""Runs and lineage against a real MLflow on SQLite, and against an unreachable server."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from werkzeug.serving import make_server

from pipeline import tracking
from pipeline.errors import InputError
from pipeline.tracking import database, sender
from pipeline.tracking.uris import absolute_uri
from tests.test_registry import free_port

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow")


TRAINING = {"bonafide.training": "0123"}
"""Identity of a run that is resumed."""


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/deep/mlflow.db"
    with tracking.run(uri, "new", job="ingest", name="t"):
        return uri


def wait_until(is_reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not is_reached():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_runs_on_the_same_data_share_its_digest_and_can_be_nested(tracking_uri: str) -> None:
    digest = "0123456789abcdef"
    with tracking.run(tracking_uri, "lineage", job="train", name="t", tags=TRAINING) as train:
        train.log_dataset("snapshot 000001", digest, "s3://key:secret@bucket/store", "training")
    assert tracking.find_run(tracking_uri, "lineage", TRAINING) == train.run_id
    with tracking.run(tracking_uri, "lineage", job="score", name="t", parent=TRAINING) as score:
        score.log_dataset("snapshot 000001", digest, "/store", "score")

    client = MlflowClient(tracking_uri)
    stored = [client.get_run(str(run.run_id)) for run in (train, score)]
    assert [run.info.status for run in stored] == ["FINISHED", "FINISHED"]
    assert "mlflow.parentRunId" not in stored[0].data.tags
    assert stored[1].data.tags["mlflow.parentRunId"] == train.run_id
    datasets = [run.inputs.dataset_inputs[0].dataset for run in stored if run.inputs is not None]
    assert [dataset.digest for dataset in datasets] == [digest, digest]
    assert "secret" not in datasets[0].source


def test_metrics_for_other_runs_reach_those_with_the_tags_and_change_nothing_else(tracking_uri: str) -> None:
    tags = {"bonafide.job": "train", "bonafide.weights": "abc"}
    runs = []
    for weights in ("abc", "abc", "other"):
        with tracking.run(
            tracking_uri, "others", job="train", name="t", tags={"bonafide.weights": weights}
        ) as run:
            runs.append(str(run.run_id))
    client = MlflowClient(tracking_uri)
    before = [client.get_run(run_id) for run_id in runs]
    for value in (0.25, 0.125, 0.5):
        with tracking.run(
            tracking_uri, "others", job="evaluate", name="e", tags={"bonafide.weights": "abc"}
        ) as evaluate:
            evaluate.log_to_others(tags, {"eer/mlaad": value, "eer/a*b": value})
            evaluate.log_to_others({"bonafide.weights": "of no run"}, {"eer/mlaad": 1.0})
    after = [client.get_run(run_id) for run_id in runs]
    assert [run.data.metrics for run in after] == [{"eer/mlaad": 0.5}, {"eer/mlaad": 0.5}, {}]
    assert [run.info.end_time for run in after] == [run.info.end_time for run in before]
    assert {run.info.status for run in after} == {"FINISHED"}
    history = client.get_metric_history(runs[0], "eer/mlaad")
    assert [point.value for point in history] == [0.25, 0.125, 0.5]
    assert client.get_run(str(evaluate.run_id)).data.metrics == {}


def test_a_run_records_its_config_and_code_but_no_credentials(tracking_uri: str, tmp_path: Path) -> None:
    config: dict[str, object] = {
        "store": "s3://key:hunter2@bucket/x",
        "batch": {"max_seconds": 100.0},
        "corpora": ("a", "b"),
        "long": "x" * 9000,
    }
    config |= {f"extra_{number}": number for number in range(150)}
    with tracking.run(tracking_uri, "params", job="train", name="t", config=config) as run:
        run.log_text("uri = 'postgresql://me:hunter2@host/db'", "config.toml")
        run.log_file(b"kept", "note.bin")
        run.set_tags({"bonafide.best_step": 7, "bonafide.nothing": None})
    client = MlflowClient(tracking_uri)
    stored = client.get_run(str(run.run_id))
    assert stored.data.params["batch.max_seconds"] == "100.0"
    assert stored.data.params["corpora"] == "a, b"
    assert stored.data.params["store"] == "s3://bucket/x"
    assert len(stored.data.params) == 4 + 150
    assert stored.data.tags["bonafide.job"] == "train"
    assert stored.data.tags["bonafide.best_step"] == "7"
    assert "bonafide.nothing" not in stored.data.tags
    assert "torch 2." in stored.data.tags["bonafide.versions"]
    assert stored.data.tags["mlflow.user"]
    text = Path(client.download_artifacts(str(run.run_id), "config.toml", str(tmp_path))).read_text()
    assert text == "uri = 'postgresql://host/db'"
    assert {artifact.path for artifact in client.list_artifacts(str(run.run_id))} == {
        "config.toml",
        "note.bin",
    }


def test_a_resumed_run_is_the_same_run_and_keeps_its_first_params(tracking_uri: str) -> None:
    before, identity = {"steps": 5, "rank": 0}, {"bonafide.training": "1"}
    with (
        pytest.raises(RuntimeError, match="lost"),
        tracking.run(
            tracking_uri, "resume", job="train", name="t", identity=identity, config=before
        ) as first,
    ):
        first.log_metrics({"loss": 0.5}, step=1)
        raise RuntimeError("lost")
    client = MlflowClient(tracking_uri)
    assert client.get_run(str(first.run_id)).info.status == "FAILED"
    with tracking.run(
        tracking_uri,
        "resume",
        job="train",
        name="t",
        identity=identity,
        config={"steps": 9, "rank": 0, "new": 1},
    ) as second:
        second.log_metrics({"loss": 0.25}, step=2)
    stored = client.get_run(str(first.run_id))
    assert second.run_id == first.run_id
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"steps": "5", "rank": "0", "new": "1"}
    assert json.loads(stored.data.tags["bonafide.resumed_with"]) == {"steps": "9"}
    assert [(point.step, point.value) for point in client.get_metric_history(str(first.run_id), "loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]


def test_steps_that_a_resumed_run_repeats_have_one_value_each(tracking_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with (
        pytest.raises(RuntimeError, match="lost"),
        tracking.run(
            tracking_uri, "again", job="train", name="t", identity=TRAINING, metrics_file=file
        ) as first,
    ):
        for step in range(1, 6):
            first.log_metrics({"train/loss": 1 / step}, step=step)
        first.log_metrics({"validation/eer": 0.4}, step=3)
        raise RuntimeError("lost")
    with tracking.run(
        tracking_uri, "again", job="train", name="t", identity=TRAINING, metrics_file=file
    ) as second:
        for step in range(4, 8):
            second.log_metrics({"train/loss": 10 / step}, step=step)
        second.log_metrics({"validation/eer": 0.3}, step=6)
    client = MlflowClient(tracking_uri)
    history = client.get_metric_history(str(first.run_id), "train/loss")
    assert [(point.step, point.value) for point in history] == [
        *((step, 1 / step) for step in range(1, 6)),
        *((step, 10 / step) for step in range(6, 8)),
    ]
    history = client.get_metric_history(str(first.run_id), "validation/eer")
    assert [(point.step, point.value) for point in history] == [(3, 0.4), (6, 0.3)]
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 6]


def test_metrics_that_a_crash_kept_from_the_server_are_sent_when_the_run_resumes(
    tracking_uri: str, tmp_path: Path
) -> None:
    file = tmp_path / "metrics.jsonl"
    with tracking.run(
        tracking_uri, "missing", job="train", name="t", identity=TRAINING, metrics_file=file
    ) as first:
        first.log_metrics({"train/loss": 0.5, "validation/eer": 0.4}, step=1)
        first.write_metrics({"validation/eer": 0.9}, step=2)  # repeated below, so it does not count
        first.write_metrics({"train/loss": 0.25, "validation/eer": 0.3}, step=2)
        first.send_metrics({"train/loss": 0.25}, step=2)
        first.write_metrics({"train/loss": 0.1, "validation/eer": 0.2}, step=3)  # after the newest checkpoint
    with tracking.run(
        tracking_uri, "missing", job="train", name="t", identity=TRAINING, metrics_file=file
    ) as second:
        second.send_missing(2)
        second.log_metrics({"train/loss": 0.125, "validation/eer": 0.25}, step=3)
    client = MlflowClient(tracking_uri)
    for name, values in {"train/loss": [0.5, 0.25, 0.125], "validation/eer": [0.4, 0.3, 0.25]}.items():
        history = client.get_metric_history(str(first.run_id), name)
        assert [(point.step, point.value) for point in history] == list(enumerate(values, start=1))


def test_a_line_that_a_killed_process_cut_short_is_removed_before_new_ones_are_written(
    tmp_path: Path,
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"time": 1.0, "step": 1, "train/loss": 0.5}\n{"time": 2.0, "st')
    with tracking.run("", "cut", job="train", name="t", metrics_file=file) as run:
        run.log_metrics({"train/loss": 0.25}, step=2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]


def test_an_interrupt_ends_the_run_killed(tracking_uri: str) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        tracking.run(tracking_uri, "killed", job="train", name="t") as run,
    ):
        raise KeyboardInterrupt
    assert MlflowClient(tracking_uri).get_run(str(run.run_id)).info.status == "KILLED"


def test_a_deleted_run_is_replaced_by_a_new_one(tracking_uri: str) -> None:
    runs = []
    for _ in range(2):
        with tracking.run(tracking_uri, "lost", job="train", name="t", identity=TRAINING) as run:
            runs.append(run.run_id)
        MlflowClient(tracking_uri).delete_run(str(run.run_id))
    assert None not in runs
    assert runs[0] != runs[1]


def test_an_unreachable_server_costs_two_lines_and_no_metric(
    tmp_path: Path, unreachable: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, uri = tmp_path / "metrics.jsonl", f"http://user:hunter2@{unreachable}"
    with tracking.run(uri, "dead", job="train", name="t", metrics_file=file) as run:
        for step in range(100):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        run.set_tags({"a": "b"})
    assert run.run_id is None
    warnings = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("pipeline.tracking")
    ]
    assert [record.getMessage().partition(";")[0] for record in warnings] == [
        "MLflow does not respond",
        "MLflow did not respond",
    ]
    assert "hunter2" not in caplog.text
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(100))


def test_metrics_logged_during_an_outage_arrive_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "RETRY_S", 0.05)
    monkeypatch.setattr(sender, "CLOSE_TIMEOUT_S", 240.0)
    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    with tracking.run(uri, "outage", job="train", name="t") as run:
        with sqlite3.connect(database, timeout=120) as connection:
            connection.execute("ALTER TABLE metrics RENAME TO away")
        for step in range(2500):  # ends during the outage, so logging does not wait for the server
            run.log_metrics({"loss": float(step)}, step=step)
        wait_until(lambda: "does not respond" in caplog.text)
        with sqlite3.connect(database, timeout=120) as connection:
            connection.execute("ALTER TABLE away RENAME TO metrics")
    history = MlflowClient(uri).get_metric_history(str(run.run_id), "loss")
    assert sorted(point.step for point in history) == list(range(2500))


class Gate:
    """A WSGI application in front of another, as a proxy is; answers with a status if it has one."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self.status = ""
        self._application = application

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        if not self.status:
            return self._application(environment, start)
        start(self.status, [("Content-Length", "0")])
        return [b""]


@contextmanager
def serving(application: Callable[..., Any], port: int = 0) -> Iterator[str]:
    """Serve a WSGI application from this process; yields its URL."""
    server = make_server("127.0.0.1", port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def mlflow_application(database_uri: str, folder: Path) -> Iterator[Gate]:
    """The application of `mlflow server`, which this process serves in less time than a server of its own."""
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": database_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name, value in settings.items():
            patch.setenv(name, value)
        warnings.simplefilter("ignore")  # those of MLflow about itself
        from mlflow.server import app, fastapi_app  # noqa: F401  (the first imports the second later)

        yield Gate(app)


def test_a_run_whose_server_is_away_at_first_is_whole_once_it_responds(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "RETRY_S", 0.05)
    file, uri = tmp_path / "metrics.jsonl", f"http://me:hunter2@127.0.0.1:{(port := free_port())}/"
    assert not tracking.check(uri, "away")
    arguments: dict[str, Any] = {"job": "train", "name": "t", "identity": TRAINING}
    with (
        tracking.run(uri, "away", config={"steps": 3}, **arguments) as owner,
        tracking.run(uri, "away", is_owner=False, metrics_file=file, **arguments) as worker,
    ):
        assert (owner.run_id, worker.run_id, owner.url) == (None, None, None)
        worker.write_metrics({"train/loss": 0.75}, step=1)  # by an earlier attempt
        worker.send_missing(1)
        worker.log_metrics({"train/loss": 0.5}, step=2)
        worker.log_text("first", "page.html")
        worker.log_text("second", "page.html")
        owner.set_tags({"a": "b"})
        with mlflow_application(tracking_uri, tmp_path) as mlflow, serving(mlflow, port) as server:
            wait_until(lambda: owner.run_id is not None and worker.run_id is not None)
            worker.log_metrics({"train/loss": 0.25}, step=3)
            worker.close("FINISHED")
            owner.close("FINISHED")
            client = MlflowClient(server)
            experiment = client.get_experiment_by_name("away")
            assert experiment is not None
            (stored,) = client.search_runs([experiment.experiment_id])
            history = client.get_metric_history(stored.info.run_id, "train/loss")
            page = Path(client.download_artifacts(stored.info.run_id, "page.html", str(tmp_path)))
            assert tracking.check(f"{server}/", "away")
    assert owner.run_id == worker.run_id == stored.info.run_id
    assert owner.url == f"{server}/#/experiments/{experiment.experiment_id}/runs/{owner.run_id}" + (
        "?workflowType=machine_learning"
    )
    assert [(point.step, point.value) for point in history] == [(1, 0.75), (2, 0.5), (3, 0.25)]
    assert page.read_text() == "second"
    assert (stored.info.status, stored.data.tags["a"], stored.data.params) == (
        "FINISHED",
        "b",
        {"steps": "3"},
    )
    assert not re.search("hunter2|Retrying", caplog.text)


def test_a_server_that_refuses_for_a_while_has_everything_in_the_end(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "RETRY_S", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    statuses = ["401 Unauthorized", "403 Forbidden", "404 Not Found", "503 Service Unavailable"]
    with mlflow_application(tracking_uri, tmp_path) as mlflow, serving(mlflow) as server:
        with tracking.run(server, "while", job="train", name="t") as run:
            for step, mlflow.status in enumerate([*statuses, ""], start=1):
                caplog.clear()
                run.set_tags({f"tag {step}": "x"})
                run.log_metrics({"a": float(step)}, step=step)
                if mlflow.status and step == 1:
                    wait_until(lambda: "what is tracked waits" in caplog.text)
        client = MlflowClient(server)
        stored = client.get_run(str(run.run_id))
        assert stored.info.status == "FINISHED"
        assert {f"tag {step}" for step in range(1, 6)} <= stored.data.tags.keys()
        assert [point.step for point in client.get_metric_history(str(run.run_id), "a")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("status", ["429 Slow Down", "500 Error", "502 Bad", "503 Away", "504 Late"])
def test_a_server_that_is_too_busy_is_away(
    status: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serving(gate := Gate(lambda *_: [])) as server:
        gate.status = status
        assert not tracking.check(server, "bonafide")
    assert f"{server} does not respond: too many {status[:3]} error responses" in caplog.text


def test_a_server_that_does_not_answer_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert not tracking.check(uri, "bonafide")
    assert f"{uri} does not respond: no answer in time" in caplog.text


def test_a_metric_that_the_server_refuses_is_dropped_and_the_others_arrive(
    tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking.run(tracking_uri, "refused", job="train", name="t") as run:
        for step in (1, 2):
            run.log_metrics({"train/loss": 0.5, "eer/a*b": 0.25, "speed": 3.0}, step=step)
    stored = MlflowClient(tracking_uri).get_run(str(run.run_id))
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics == {"train/loss": 0.5, "speed": 3.0}
    assert caplog.text.count("MLflow refuses the metric eer/a*b") == 1


def test_a_deleted_run_costs_one_warning(tracking_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with tracking.run(tracking_uri, "deleted", job="train", name="t") as run:
        MlflowClient(tracking_uri).delete_run(str(run.run_id))
        for step in range(3):
            run.log_metrics({"a": 1.0, "b": 2.0, "c": 3.0}, step=step)
    assert caplog.text.count("MLflow refuses every metric") == 1


def create_run(uri: str) -> None:
    """What a job does with a database that does not exist; runs in a process of its own."""
    with tracking.run(uri, "new", job="score", name="t") as run:
        run.log_metrics({"a": 1.0}, step=1)
    assert run.run_id is not None


def test_jobs_may_create_one_database_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    processes = [get_context("fork").Process(target=create_run, args=(uri,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("new")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], "metrics.a = 1")) == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mlflow.db"]


def test_a_database_is_complete_or_missing_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_links(*_: object) -> None:
        raise PermissionError  # as of a file system that has none

    for link in (os.link, without_links):
        monkeypatch.setattr(os, "link", link)
        made, file = tmp_path / ".mlflow.db.tmp", tmp_path / link.__name__
        for content in ("first", "second"):
            made.unlink(missing_ok=True)
            made.write_text(content)
            database._publish(made, file)
            assert file.read_text() == "first"


def test_a_locked_database_is_waited_for(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.0)
    file = shutil.copy(tracking_uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert not tracking.check(f"sqlite:///{file}", "bonafide")
        connection.rollback()
    assert "database is locked; the command continues" in caplog.text
    assert tracking.check(f"sqlite:///{file}", "bonafide")


def test_a_database_that_a_killed_process_was_writing_can_be_used(tracking_uri: str, tmp_path: Path) -> None:
    file = shutil.copy(tracking_uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("CREATE TABLE unfinished (text)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO unfinished VALUES (?)", [("x" * 4000,)] * 100)
        (tmp_path / "killed").mkdir()
        for path in (file, tmp_path / "mlflow.db-journal"):
            shutil.copy(path, tmp_path / "killed")
        connection.rollback()
    uri = f"sqlite:///{tmp_path}/killed/mlflow.db"
    assert tracking.check(uri, "bonafide")
    with tracking.run(uri, "bonafide", job="train", name="t") as run:
        pass
    assert run.run_id is not None


def test_a_check_creates_no_database(tmp_path: Path) -> None:
    assert tracking.check(f"sqlite:///{tmp_path}/new/mlflow.db", "bonafide")
    assert not tracking.check("", "bonafide")
    assert list(tmp_path.iterdir()) == []


def test_lines_of_metrics_that_are_not_whole_are_skipped() -> None:
    whole = b'{"time": 1.5, "step": 1, "train/loss": 0.5}\n'
    later = b'{"time": 2.5, "step": 2, "train/loss": NaN}\n'
    damaged = (
        b'{"time": 1.5, "st\n',
        b'{"time": 1.5, "st{"time": 1.6, "step": 2}\n',
        b"\0" * 4096 + b"\n",
        b"\xff\xfe\n",
        b"\n",
        b"7\n",
        b'{"time": 1.5, "train/loss": 0.5}\n',
        b'{"time": 1.5, "step": 2, "train/loss": "low"}\n',
    )
    for damage in damaged:
        reports = list(tracking.read_metrics(whole + damage + b"\0" * 512 + later + b'{"time": 3.5, "st'))
        assert [(report.step, report.time_s) for report in reports] == [(1, 1.5), (2, 2.5)], damage
    assert list(tracking.read_metrics(b"")) == []


def test_a_file_of_metrics_with_damage_is_sent_and_continued(tracking_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"time": 1, "step": 1, "a": 0.5}\n\0\0\0\n{"time": 2, "st\n{"time": 3, "step": 2, "a')
    with tracking.run(tracking_uri, "damage", job="train", name="t", metrics_file=file) as run:
        run.send_missing(10)
        run.log_metrics({"a": 0.25}, step=2)
    history = MlflowClient(tracking_uri).get_metric_history(str(run.run_id), "a")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]


def test_the_paths_of_uris_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    absolute = {
        "sqlite:///m.db": f"sqlite:///{tmp_path}/m.db",
        "sqlite:///../m.db": f"sqlite:///{tmp_path.parent}/m.db",
        "sqlite:///~/a b/m.db": "sqlite:////home/me/a b/m.db",
        "sqlite+pysqlite:///m.db?timeout=5": f"sqlite+pysqlite:///{tmp_path}/m.db?timeout=5",
        "sqlite:////p/m.db?timeout=5": "sqlite:////p/m.db?timeout=5",
        "sqlite:///file:m.db?uri=true": f"sqlite:///file:{tmp_path}/m.db?uri=true",
        "file:mlruns": f"file:{tmp_path}/mlruns",
        "file:~/mlruns": "file:/home/me/mlruns",
        "file:///p/mlruns": "file:///p/mlruns",
    }
    for uri, expected in absolute.items():
        assert absolute_uri(uri) == expected
        assert absolute_uri(expected) == expected
    for uri in (
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "http://me:pw@host:5000/",
        "postgresql://host/db",
        "file://host/p",
    ):
        assert absolute_uri(uri) == uri


def test_a_database_below_the_home_folder_is_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    shutil.copy(tracking_uri.removeprefix("sqlite:///"), home / "m.db")
    with tracking.run("sqlite:///~/m.db", "home", job="train", name="t") as run:
        pass
    assert MlflowClient(f"sqlite:///{home}/m.db").get_run(str(run.run_id)).info.status == "FINISHED"
    assert list(here.iterdir()) == []


def test_without_a_uri_only_the_local_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "metrics.jsonl"
    with tracking.run("", "none", job="train", name="t", metrics_file=file) as run:
        run.log_metrics({"eer": 0.5}, step=3)
        run.log_text("x", "x.txt")
        run.log_dataset("d", "1", "/store", "training")
        run.log_file(b"x", "x.bin")
        run.log_to_others({"a": "b"}, {"eer": 0.5})
    assert run.run_id is None
    assert json.loads(file.read_text())["eer"] == 0.5
    assert tracking.find_run("", "none", {}) is None


def test_an_unsupported_tracking_uri_is_a_user_error() -> None:
    with (
        pytest.raises(InputError, match="tracking URI"),
        tracking.run("gopher://nowhere", "x", job="train", name="t"),
    ):
        pass


def test_passwords_with_odd_characters_are_removed() -> None:
    for uri in (
        "postgresql+psycopg2://me:p@ss/w:rd@host/db",
        "http://me:p@ss@host/db",
        "mysql://me:x@host/db?pwd=x",
    ):
        shown = tracking.without_credentials(uri)
        assert not re.search("me|ss|rd|=x", shown), shown
        assert "host/db" in shown


def test_credentials_are_removed_from_every_uri_of_a_text() -> None:
    text = "a s3://id:pw@bucket/k?X-Amz-Signature=abc&part=1 b http://host/x sqlite:////p/m.db"
    assert (
        tracking.without_credentials(text)
        == "a s3://bucket/k?X-Amz-Signature=…&part=1 b http://host/x sqlite:////p/m.db"
    )
