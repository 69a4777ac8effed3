"""MLflow runs: open, resume, write to and find them."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.errors import InputError, UnavailableError
from pipeline.tracking import metrics_file as jsonl
from pipeline.tracking.failures import as_input_errors, failures, warn
from pipeline.tracking.opening import Opener, RunSpec, ServerRun, find_experiment, find_in_experiment
from pipeline.tracking.sender import Call, Point, Sender
from pipeline.tracking.server import connect
from pipeline.tracking.texts import MAX_DIGEST_LENGTH, clean_tags, without_credentials
from pipeline.tracking.uris import is_http

logger = logging.getLogger(__name__)

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Run:
    """One MLflow run; without a sender it only writes the local metrics file.

    A run that resumes after a crash repeats some steps. The server keeps the first value of a metric at each step; the
    local file has both, one after the other.
    """

    def __init__(self, sender: Sender | None, metrics_file: Path | None) -> None:
        self.metrics_file = metrics_file
        self._sender = sender

    @property
    def is_tracked(self) -> bool:
        """Whether the run is on the server, or will be once that responds."""
        return self._sender is not None and not self._sender.is_refused

    @property
    def run_id(self) -> str | None:
        """Its id on the server; None without a server, or while that is away."""
        return self._sender.server_run.run_id if self._sender and self._sender.server_run else None

    @property
    def url(self) -> str | None:
        """The web page of the run; None without an HTTP server, or while that is away."""
        run = self._sender.server_run if self._sender else None
        if run is None or not is_http(run.client.tracking_uri):
            return None
        path = f"experiments/{run.experiment_id}/runs/{run.run_id}"
        # Without the query, MLflow opens its pages for language models.
        return without_credentials(f"{run.client.tracking_uri}/#/{path}?workflowType=machine_learning")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics to the local file now and to the server in the background."""
        self.write_metrics(metrics, step)
        self.send_metrics(metrics, step)

    def write_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics to the local file only."""
        if self.metrics_file is not None:
            jsonl.append(self.metrics_file, metrics, step)

    def send_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics to the server only, in the background."""
        if self._sender is not None:
            self._sender.send(_points(metrics, step))

    def send_missing(self, last_step: int, data: bytes | None = None) -> None:
        """Send metrics up to a step that only a metrics file has, as after a crash or an outage; in the background.

        Args:
            last_step: the last step to send.
            data: content of a metrics file; by default that of the run.
        """
        if self._sender is None:
            return
        if data is None:
            data = self.metrics_file.read_bytes() if self.metrics_file and self.metrics_file.exists() else b""
        # The later point of a repeated step replaces the earlier one.
        points = {
            (report.step, name): Point(name, value, int(1000 * report.time_s), report.step)
            for report in jsonl.read(data)
            if report.step is not None and report.step <= last_step
            for name, value in report.metrics.items()
        }
        missing, sender = [points[key] for key in sorted(points)], self._sender
        if missing:
            sender.call_later("earlier metrics", lambda run: sender.send_missing(run, missing))

    def log_to_others(self, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Log metrics to every run of the experiment with all these tags, such as that of a training; none may match.

        These runs stay as they are otherwise: a finished one remains finished. A later value replaces an earlier one.
        """
        assert tags, "without tags, every run would match"
        if self._sender is None or not metrics:
            return
        points, sender = _points(metrics, None), self._sender
        self._call(
            f"metrics for the runs with {dict(tags)}", lambda run: sender.send_to_others(run, tags, points)
        )

    def log_file(self, data: bytes, name: str) -> None:
        """Upload a file as an artifact."""
        self._call(f"artifact {name}", lambda run: _upload(run, data, name))

    def log_text(self, text: str, name: str) -> None:
        """Upload a text as an artifact, without the credentials of URIs in it."""
        self.log_file(without_credentials(text).encode(), name)

    def describe(self, markdown: str) -> None:
        """Set the description at the top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; those with a value of None are left out."""
        for key, value in clean_tags(tags).items():
            self._call(f"tag {key}", _set_tag(key, value))

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record that the run wrote or read a data set; runs with the same name and digest share their lineage.

        Args:
            name: the name that MLflow shows.
            digest: 1 to 36 characters.
            source: path or URI.
            context: the purpose: ingest, training or evaluation.
        """
        assert 0 < len(digest) <= MAX_DIGEST_LENGTH, f"a digest must have 1 to 36 characters: {digest!r}"
        if self._sender is None:
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
        self._call(f"dataset {name}", lambda run: run.client.log_inputs(run.run_id, [dataset_input]))

    def close(self, status: str) -> None:
        """Send what waits and end the run as FINISHED, FAILED or KILLED."""
        if self._sender is None or self._sender.is_refused:
            return
        num_lost = self._sender.close(status)
        if self._sender.is_refused or (self._sender.is_complete and not num_lost):
            return
        what = f"run {self.run_id} is not complete there" if self.run_id else "this run is not tracked"
        if num_lost:
            what += f" ({num_lost} metrics are missing)"
        logger.warning("MLflow did not respond; %s; run the same command again to send what is missing", what)

    def _call(self, name: str, call: Call) -> None:
        if self._sender is not None:
            self._sender.call(name, call)


@contextmanager
def run(
    tracking_uri: str,
    experiment: str,
    *,
    job: str,
    name: str,
    identity: Mapping[str, str] = EMPTY,
    parent: str | Mapping[str, str] | None = None,
    tags: Mapping[str, object] = EMPTY,
    config: Mapping[str, object] = EMPTY,
    weights: str = "",
    metrics_file: Path | None = None,
    is_owner: bool = True,
) -> Iterator[Run]:
    """Open a run, or resume it, and end it as FINISHED, FAILED (exception) or KILLED (interrupt).

    A server that is away costs a warning, never the work: the run is opened once it responds.

    Args:
        tracking_uri: tracking server or database; with an empty one only `metrics_file` is written.
        experiment: MLflow experiment; created if it does not exist.
        job: the command, as a tag: train.
        name: name of a new run.
        identity: tags that no other run has; the newest run with all of them is resumed. Without any, the run is new.
        parent: run that this one is nested under, which may belong to another process: its id, or its tags.
        tags: further tags; those with a value of None are left out.
        config: settings, logged as params without credentials.
        weights: digest of the weights of a registered detector, to whose model all metrics of the run belong.
        metrics_file: JSON lines file that receives every metric, whether or not the server does.
        is_owner: whether the run is created if it does not exist, and a refusal is an error. Otherwise another process
            creates it, and a refusal costs a warning.

    Raises:
        InputError: MLflow cannot use the tracking URI, or refuses to open the run.
    """
    if metrics_file is not None:
        metrics_file.parent.mkdir(parents=True, exist_ok=True)
        jsonl.drop_cut_line(metrics_file)
    sender = None
    if tracking_uri:
        spec = RunSpec(experiment, job, name, identity, parent, tags, config, weights, is_owner)
        sender = Sender(Opener(tracking_uri, spec))
        try:
            sender.start()
        except InputError as error:
            if is_owner:
                raise
            warn("this run is not tracked", error)
    tracked = Run(sender, metrics_file)
    status = "KILLED"
    try:
        yield tracked
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracked.close(status)


def find_run(tracking_uri: str, experiment: str, tags: Mapping[str, str], status: str = "") -> str | None:
    """Return the id of the newest run of an experiment with all these tags, or None; None if the server is away.

    Args:
        tracking_uri: tracking server or database; none is searched if empty.
        experiment: MLflow experiment.
        tags: tags of the run.
        status: status of the run, such as FINISHED; any by default.

    Raises:
        InputError: the server refuses.
    """
    if not tracking_uri:
        return None
    try:
        client = connect(tracking_uri)
        with as_input_errors(tracking_uri):
            return find_in_experiment(client, find_experiment(client, experiment), tags, status)
    except UnavailableError as error:
        warn("the run was not looked up", error)
        return None


def _points(metrics: Mapping[str, float], step: int | None) -> list[Point]:
    now_ms = time.time_ns() // 1_000_000
    return [Point(name, float(value), now_ms, step) for name, value in metrics.items()]


def _set_tag(key: str, value: str) -> Call:
    return lambda run: run.client.set_tag(run.run_id, key, value)


def _upload(run: ServerRun, data: bytes, name: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            run.client.log_artifact(run.run_id, str(path))
        except failures():
            raise
        except Exception as error:  # of the library of an artifact store, such as boto3
            raise MlflowException(str(error), BAD_REQUEST) from error
