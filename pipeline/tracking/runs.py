"""One MLflow run: opened, written to, found again."""

from __future__ import annotations

import json
import logging
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
"""MLflow refuses more."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Opened:
    """A run on the server, and the last step of each metric that it had already."""

    run_id: str
    experiment_id: str
    last_steps: Mapping[str, int] = field(default_factory=dict)


class Run:
    """One MLflow run; without a server (run_id None) it only keeps the local metrics file.

    A run that goes on after a crash does some steps again. The server keeps one value of a metric for each step:
    the first. The local file has both, one after the other.
    """

    def __init__(
        self,
        client: MlflowClient | None,
        opened: _Opened | None,
        metrics_file: Path | None,
        model_id: str | None = None,
    ) -> None:
        self.run_id = opened.run_id if opened is not None else None
        self._experiment_id = opened.experiment_id if opened is not None else None
        self.metrics_file = metrics_file
        self._client = client if opened is not None else None
        self._last_steps = dict(opened.last_steps) if opened is not None else {}
        self._sender = None
        if client is not None and opened is not None:
            self._sender = MetricSender(client, opened.run_id, model_id)

    @property
    def url(self) -> str | None:
        """Where a browser shows the run; None where no server was asked."""
        if self._client is None or not self._client.tracking_uri.startswith(("http://", "https://")):
            return None
        place = f"experiments/{self._experiment_id}/runs/{self.run_id}"
        # MLflow opens on its pages for language models otherwise.
        return without_credentials(f"{self._client.tracking_uri}/#/{place}?workflowType=machine_learning")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics to the local file now and to the server in the background."""
        self.write_metrics(metrics, step)
        self.send_metrics(metrics, step)

    def write_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics to the local file alone."""
        if self.metrics_file is not None:
            line = json.dumps({"time": time.time(), "step": step, **metrics})
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def send_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics to the server alone, in the background."""
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
        """Send what the local file has up to a step and the server has not: it was away, or the process died first."""
        if self._sender is None or self.metrics_file is None or not self.metrics_file.exists():
            return
        missing: dict[tuple[int, str], Point] = {}  # of a step that was done twice the later point counts
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            metrics = json.loads(line)
            at_ms, step = int(1000 * metrics.pop("time")), metrics.pop("step")
            if step is not None and step <= last_step:
                for key, value in metrics.items():
                    if step > self._last_steps.get(key, -1):
                        missing[step, key] = (key, float(value), at_ms, step)
        self._sender.send([missing[place] for place in sorted(missing)])
        self._last_steps |= {key: step for step, key in sorted(missing)}

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file or a folder."""
        if self._client is not None:
            upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            self._attempt(upload, self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as the artifact of that name; credentials inside URIs are taken out."""
        if self._client is not None:
            self._attempt(self._client.log_text, self.run_id, without_credentials(text), name)

    def describe(self, markdown: str) -> None:
        """Say what the run is, above everything else on its page."""
        self.set_tags({"mlflow.note.content": markdown})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; a value of None is left out."""
        for key, value in clean_tags(tags).items():
            if self._client is not None:
                self._attempt(self._client.set_tag, self.run_id, key, value)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record that the run wrote or read a data set; an equal name and digest on two runs is the lineage edge.

        name: what a person calls it; digest: at most 36 characters; source: its path or URI;
        context: what for ("ingest", "training", "evaluation").
        """
        assert 0 < len(digest) <= MAX_DIGEST_LENGTH, f"MLflow takes digests of 1 to 36 characters: {digest!r}"
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
        tagged = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])
        self._attempt(self._client.log_inputs, self.run_id, [tagged])

    def close(self, status: str) -> None:
        """Send what is left and end the run as FINISHED, FAILED or KILLED."""
        if self._sender is None or self._client is None:
            return
        num_lost = self._sender.close()
        if num_lost:
            logger.warning("%d metrics did not reach MLflow; %s", num_lost, self._remedy())
        self._attempt(self._client.set_terminated, self.run_id, status)

    def _remedy(self) -> str:
        return f"they are in {self.metrics_file}" if self.metrics_file else "no local file was asked for"

    def _attempt(self, call: Callable[..., object], *arguments: object) -> None:
        if self._sender is not None and not self._sender.is_reachable:
            # Waiting here for a server that is away would stall the work.
            logger.warning("MLflow is away: %s of run %s is left out", call.__name__, self.run_id)
            return
        try:
            call(*arguments)
        except failures() as failure:
            warn(f"MLflow did not take {call.__name__} of run {self.run_id}", failure)


@contextmanager
def run(
    tracking_uri: str,
    experiment: str,
    *,
    job: str,
    name: str,
    parent_run_id: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, object] = NOTHING,
    config: Mapping[str, object] = NOTHING,
    metrics_file: Path | None = None,
    model_id: str | None = None,
) -> Iterator[Run]:
    """Open a run, or go on with `run_id`, and end it FINISHED, FAILED (exception) or KILLED (interrupt).

    An empty `tracking_uri` tracks nothing. A server that cannot be reached costs a warning, never the work:
    `metrics_file` (JSON lines) has every metric in any case. `parent_run_id` nests across processes; `model_id`, from
    `find_model`, is the model that all metrics of the run are of.
    Raises InputError for a tracking URI that MLflow cannot use.
    """
    if metrics_file is not None:
        metrics_file.parent.mkdir(parents=True, exist_ok=True)
    client = connect(tracking_uri) if tracking_uri else None
    opened = None
    if client is not None:
        tags = {"bonafide.job": job, "mlflow.source.name": f"jobs.{job}", **tags, **environment()}
        if parent_run_id:
            tags["mlflow.parentRunId"] = parent_run_id
        try:
            opened = _open_run(
                client, tracking_uri, experiment, name, run_id, clean_tags(tags), flatten(config)
            )
        except failures() as failure:
            warn(f"MLflow at {tracking_uri} does not answer; this run is not tracked", failure)
    tracked = Run(client, opened, metrics_file, model_id)
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
    """Return the id of the newest run of the experiment that has all these tags, or None."""
    if not tracking_uri:
        return None
    client = connect(tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return None
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = client.search_runs([found.experiment_id], wanted, max_results=1, order_by=["start_time DESC"])
    except failures() as failure:
        warn(f"MLflow at {tracking_uri} does not answer; the run was not looked up", failure)
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
) -> _Opened:
    from mlflow.entities import Param

    known: Mapping[str, str] = {}
    last_steps: Mapping[str, int] = {}
    if run_id is None or not _is_usable(client, run_id):
        info = client.create_run(
            _experiment_id(client, tracking_uri, experiment), None, dict(tags), name
        ).info
        run_id = str(info.run_id)
    else:
        client.update_run(run_id, status="RUNNING")
        found = client.get_run(run_id)
        info, known = found.info, found.data.params
        last_steps = {metric.key: metric.step for metric in found.data.to_proto().metrics}
        changed = {key: value for key, value in params.items() if known.get(key, value) != value}
        if changed:  # a param is written once; the first values stay and the later ones are told beside them
            client.set_tag(run_id, "bonafide.resumed_with", json.dumps(changed)[:MAX_TAG_LENGTH])
    new = [Param(key, value) for key, value in params.items() if key not in known]
    for start in range(0, len(new), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[start : start + MAX_PARAMS_PER_CALL])
    return _Opened(run_id, str(info.experiment_id), last_steps)


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

    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return str(found.experiment_id)
    artifacts = None
    if tracking_uri.startswith("sqlite:///"):  # MLflow would choose ./mlruns, wherever the process stands
        artifacts = (database_folder(tracking_uri) / "artifacts" / experiment).as_uri()
    try:
        return str(client.create_experiment(experiment, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"experiment {experiment!r} exists and yet does not"
    return str(found.experiment_id)
