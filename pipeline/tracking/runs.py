"""MLflow runs: open, resume, write to and find them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipeline.tracking.sender import MetricSender, Point
from pipeline.tracking.server import connect, database_folder, failures, warn
from pipeline.tracking.texts import (
    MAX_DIGEST_LENGTH,
    MAX_TAG_LENGTH,
    clean_tags,
    environment,
    flatten,
    without_credentials,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

MAX_PARAMS_PER_CALL = 100
"""MLflow rejects more."""
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _ServerRun:
    """An open run on the server, with the last step that it already has of each metric."""

    run_id: str
    experiment_id: str
    last_steps: Mapping[str, int] = field(default_factory=dict)


class Run:
    """One MLflow run; without a server (run_id None) it only writes the local metrics file.

    A run that resumes after a crash repeats some steps. The server keeps the first value of a metric at each step; the
    local file has both, one after the other.
    """

    def __init__(
        self,
        client: MlflowClient | None,
        server_run: _ServerRun | None,
        metrics_file: Path | None,
        model_id: str | None = None,
    ) -> None:
        self.run_id = server_run.run_id if server_run is not None else None
        self._experiment_id = server_run.experiment_id if server_run is not None else None
        self.metrics_file = metrics_file
        self._client = client if server_run is not None else None
        self._last_steps = dict(server_run.last_steps) if server_run is not None else {}
        self._sender = None
        if client is not None and server_run is not None:
            self._sender = MetricSender(client, server_run.run_id, model_id)

    @property
    def url(self) -> str | None:
        """The web page of the run; None without an HTTP server."""
        if self._client is None or not self._client.tracking_uri.startswith(("http://", "https://")):
            return None
        path = f"experiments/{self._experiment_id}/runs/{self.run_id}"
        # Without the query, MLflow opens its pages for language models.
        return without_credentials(f"{self._client.tracking_uri}/#/{path}?workflowType=machine_learning")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics to the local file now and to the server in the background."""
        self.write_metrics(metrics, step)
        self.send_metrics(metrics, step)

    def write_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics to the local file only."""
        if self.metrics_file is not None:
            line = json.dumps({"time": time.time(), "step": step, **metrics})
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def send_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics to the server only, in the background."""
        if self._sender is not None:
            now_ms = time.time_ns() // 1_000_000
            self._sender.send(
                [
                    (key, float(value), now_ms, step or 0)
                    for key, value in metrics.items()
                    if step is None or step > self._last_steps.get(key, -1)
                ]
            )

    def send_missing(self, last_step: int) -> None:
        """Send metrics up to a step that only the local file has, as after a crash or an outage."""
        if self._sender is None or self.metrics_file is None or not self.metrics_file.exists():
            return
        # The later point of a repeated step replaces the earlier one.
        missing: dict[tuple[int, str], Point] = {}
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            metrics = json.loads(line)
            time_ms, step = int(1000 * metrics.pop("time")), metrics.pop("step")
            if step is not None and step <= last_step:
                for key, value in metrics.items():
                    if step > self._last_steps.get(key, -1):
                        missing[step, key] = (key, float(value), time_ms, step)
        self._sender.send([missing[key] for key in sorted(missing)])
        self._last_steps |= {key: step for step, key in sorted(missing)}

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file or a folder."""
        if self._client is not None:
            upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            self._attempt(upload, self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Upload a text as an artifact, without the credentials of URIs in it."""
        if self._client is not None:
            self._attempt(self._client.log_text, self.run_id, without_credentials(text), name)

    def describe(self, markdown: str) -> None:
        """Set the description at the top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; those with a value of None are left out."""
        for key, value in clean_tags(tags).items():
            if self._client is not None:
                self._attempt(self._client.set_tag, self.run_id, key, value)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record that the run wrote or read a data set; runs with the same name and digest share their lineage.

        Args:
            name: the name that MLflow shows.
            digest: 1 to 36 characters.
            source: path or URI.
            context: the purpose: ingest, training or evaluation.
        """
        assert 0 < len(digest) <= MAX_DIGEST_LENGTH, f"a digest must have 1 to 36 characters: {digest!r}"
        if self._client is None:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = without_credentials(source)
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="s3" if source.startswith("s3://") else "local",
            source=json.dumps({"uri": source}),
        )
        dataset_input = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])
        self._attempt(self._client.log_inputs, self.run_id, [dataset_input])

    def close(self, status: str) -> None:
        """Send the queued metrics and end the run as FINISHED, FAILED or KILLED."""
        if self._sender is None or self._client is None:
            return
        num_lost = self._sender.close()
        if num_lost:
            kept = (
                f"they are in {self.metrics_file}" if self.metrics_file else "there is no local metrics file"
            )
            logger.warning("%d metrics did not reach MLflow; %s", num_lost, kept)
        self._attempt(self._client.set_terminated, self.run_id, status)

    def _attempt(self, call: Callable[..., object], *arguments: object) -> None:
        if self._sender is not None and not self._sender.is_reachable:
            # Waiting here for an unreachable server would stall the work.
            logger.warning("MLflow does not respond; skipped %s of run %s", call.__name__, self.run_id)
            return
        try:
            call(*arguments)
        except failures() as failure:
            warn(f"MLflow rejected {call.__name__} of run {self.run_id}", failure)


@contextmanager
def run(
    tracking_uri: str,
    experiment: str,
    *,
    job: str,
    name: str,
    parent_run_id: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, object] = EMPTY,
    config: Mapping[str, object] = EMPTY,
    metrics_file: Path | None = None,
    model_id: str | None = None,
) -> Iterator[Run]:
    """Open a run, or resume `run_id`, and end it as FINISHED, FAILED (exception) or KILLED (interrupt).

    A server that cannot be reached costs a warning, never the work.

    Args:
        tracking_uri: tracking server or database; with an empty one only `metrics_file` is written.
        experiment: MLflow experiment; created if it does not exist.
        job: the command, as a tag: train.
        name: name of a new run.
        parent_run_id: run that this one is nested under; may belong to another process.
        run_id: run to resume; one that the server does not have is replaced by a new run.
        tags: further tags; those with a value of None are left out.
        config: settings, logged as params without credentials.
        metrics_file: JSON lines file that receives every metric, whether or not the server does.
        model_id: the model that all metrics of the run belong to, from `find_model`.

    Raises:
        InputError: MLflow cannot use the tracking URI.
    """
    if metrics_file is not None:
        metrics_file.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(metrics_file)
    client = connect(tracking_uri) if tracking_uri else None
    server_run = None
    if client is not None:
        tags = {"bonafide.job": job, "mlflow.source.name": f"jobs.{job}", **tags, **environment()}
        if parent_run_id:
            tags["mlflow.parentRunId"] = parent_run_id
        try:
            server_run = _open_run(
                client, tracking_uri, experiment, name, run_id, clean_tags(tags), flatten(config)
            )
        except failures() as failure:
            warn(f"MLflow at {tracking_uri} does not respond; this run is not tracked", failure)
    tracked = Run(client, server_run, metrics_file, model_id)
    status = "KILLED"
    try:
        yield tracked
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracked.close(status)


def find_run(tracking_uri: str, experiment: str, tags: Mapping[str, str]) -> str | None:
    """Return the id of the newest run of an experiment with all these tags, or None."""
    if not tracking_uri:
        return None
    client = connect(tracking_uri)
    try:
        stored = client.get_experiment_by_name(experiment)
        if stored is None:
            return None
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = client.search_runs([stored.experiment_id], query, max_results=1, order_by=["start_time DESC"])
    except failures() as failure:
        warn(f"MLflow at {tracking_uri} does not respond; the run was not looked up", failure)
        return None
    return str(runs[0].info.run_id) if runs else None


def _open_run(
    client: MlflowClient,
    tracking_uri: str,
    experiment: str,
    name: str,
    run_id: str | None,
    tags: Mapping[str, str],
    params: Mapping[str, str],
) -> _ServerRun:
    from mlflow.entities import Param

    stored_params: Mapping[str, str] = {}
    last_steps: Mapping[str, int] = {}
    if run_id is None or not _is_usable(client, run_id):
        info = client.create_run(
            _experiment_id(client, tracking_uri, experiment), None, dict(tags), name
        ).info
        run_id = str(info.run_id)
    else:
        client.update_run(run_id, status="RUNNING")
        stored = client.get_run(run_id)
        info, stored_params = stored.info, stored.data.params
        last_steps = {metric.key: metric.step for metric in stored.data.to_proto().metrics}
        changed = {key: value for key, value in params.items() if stored_params.get(key, value) != value}
        if changed:  # MLflow does not overwrite params, so the new values go into a tag
            client.set_tag(run_id, "bonafide.resumed_with", json.dumps(changed)[:MAX_TAG_LENGTH])
    new = [Param(key, value) for key, value in params.items() if key not in stored_params]
    for start in range(0, len(new), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[start : start + MAX_PARAMS_PER_CALL])
    return _ServerRun(run_id, str(info.experiment_id), last_steps)


def _is_usable(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _experiment_id(client: MlflowClient, tracking_uri: str, experiment: str) -> str:
    from mlflow.exceptions import MlflowException

    stored = client.get_experiment_by_name(experiment)
    if stored is not None:
        return str(stored.experiment_id)
    artifacts = None
    if tracking_uri.startswith("sqlite:///"):  # MLflow would choose ./mlruns in the working directory
        artifacts = (database_folder(tracking_uri) / "artifacts" / experiment).as_uri()
    try:
        return str(client.create_experiment(experiment, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    stored = client.get_experiment_by_name(experiment)
    assert stored is not None, f"MLflow reports that experiment {experiment!r} exists, but does not return it"
    return str(stored.experiment_id)


def _drop_cut_line(file: Path) -> None:
    """Remove a last line without its end, which a process leaves that is killed while it writes."""
    data = file.read_bytes() if file.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(file, data.rfind(b"\n") + 1)
