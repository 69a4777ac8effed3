"""Opens the run of a job on the server: finds the one that it started earlier, or creates it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.tracking.environment import environment
from pipeline.tracking.failures import as_input_errors, failures, is_temporary, warn
from pipeline.tracking.server import connect
from pipeline.tracking.texts import MAX_TAG_LENGTH, clean_tags, flatten
from pipeline.tracking.uris import sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Param, Run
    from mlflow.tracking import MlflowClient

MAX_PARAMS_PER_CALL = 100
"""MLflow rejects more."""
MAX_FOUND = 1000
"""Runs that a search returns at most."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run before it is opened."""

    experiment: str
    job: str
    name: str
    identity: Mapping[str, str]
    """Tags that no other run has: the newest run with all of them is resumed. Empty: always a new run."""
    parent: str | Mapping[str, str] | None
    """Run that this one is nested under: its id, or tags by which it is found."""
    tags: Mapping[str, object]
    config: Mapping[str, object]
    weights: str
    """Digest of the weights of a logged model that all metrics of the run belong to; empty: none."""
    is_owner: bool
    """Whether the run is created if it does not exist; else another process creates it."""


@dataclass(frozen=True, slots=True)
class ServerRun:
    """An open run on the server."""

    client: MlflowClient
    run_id: str
    experiment_id: str
    model_id: str | None = None
    last_steps: dict[str, int] = field(default_factory=dict)
    """The last step that the server has of each metric."""


class Opener:
    """Opens a run; after a failure in between, the next attempt continues with the same run."""

    def __init__(self, tracking_uri: str, spec: RunSpec) -> None:
        self.tracking_uri = tracking_uri
        self._spec = spec
        self._created: str | None = None

    def open(self) -> ServerRun | None:
        """Open the run; None if another process has yet to create it.

        Raises:
            InputError: the server refuses.
            UnavailableError: the server is away.
        """
        spec = self._spec
        client = connect(self.tracking_uri)
        with as_input_errors(self.tracking_uri):
            experiment_id = find_experiment(client, spec.experiment)
            run_id = self._created or find_in_experiment(client, experiment_id, spec.identity)
            if run_id is None and not spec.is_owner:
                return None
            if experiment_id is None:
                experiment_id = _create_experiment(client, self.tracking_uri, spec.experiment)
            if run_id is None:
                run_id = self._created = self._create(client, experiment_id)
            stored = client.get_run(run_id)
            if stored.info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
            _log_params(client, run_id, flatten(spec.config), stored.data.params)
            return ServerRun(
                client,
                run_id,
                str(stored.info.experiment_id),
                find_logged_model(client, experiment_id, spec.weights),
                last_steps(stored),
            )

    def _create(self, client: MlflowClient, experiment_id: str) -> str:
        spec = self._spec
        tags = {
            "bonafide.job": spec.job,
            "mlflow.source.name": f"jobs.{spec.job}",
            **spec.tags,
            **environment(),
        }
        tags |= spec.identity
        parent = spec.parent
        if isinstance(parent, Mapping):
            parent = find_in_experiment(client, experiment_id, parent)
        if parent:
            tags["mlflow.parentRunId"] = parent
        return str(client.create_run(experiment_id, None, clean_tags(tags), spec.name).info.run_id)


def find_in_experiment(
    client: MlflowClient, experiment_id: str | None, tags: Mapping[str, str], status: str = ""
) -> str | None:
    """Return the id of the newest run of an experiment with all these tags, and this status; None without tags."""
    if experiment_id is None or not tags:
        return None
    return next(iter(find_all_in_experiment(client, experiment_id, tags, status, max_results=1)), None)


def find_all_in_experiment(
    client: MlflowClient,
    experiment_id: str,
    tags: Mapping[str, str],
    status: str = "",
    *,
    max_results: int = MAX_FOUND,
) -> list[str]:
    """Return the ids of the runs of an experiment with all these tags, and this status; the newest first."""
    terms = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    if status:
        terms.append(f"attributes.status = '{status}'")
    runs = client.search_runs(
        [experiment_id], " and ".join(terms), max_results=max_results, order_by=["start_time DESC"]
    )
    return [str(run.info.run_id) for run in runs]


def find_logged_model(client: MlflowClient, experiment_id: str | None, weights: str) -> str | None:
    """Return the id of the newest logged model of an experiment with these weights, or None."""
    if experiment_id is None or not weights:
        return None
    models = client.search_logged_models([experiment_id], f"tags.weights = '{weights}'", max_results=1)
    return str(models[0].model_id) if models else None


def find_experiment(client: MlflowClient, name: str) -> str | None:
    """Return the id of an experiment, or None."""
    stored = client.get_experiment_by_name(name)
    return str(stored.experiment_id) if stored is not None else None


def last_steps(run: Run) -> dict[str, int]:
    """The last step that the server has of each metric of a run."""
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}


def _create_experiment(client: MlflowClient, tracking_uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    artifacts = None
    if file := sqlite_file(tracking_uri):  # MLflow would choose ./mlruns in the working directory
        artifacts = (file.parent / "artifacts" / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = find_experiment(client, name)
    assert found is not None, f"MLflow reports that experiment {name!r} exists, but does not return it"
    return found


def _log_params(
    client: MlflowClient, run_id: str, params: Mapping[str, str], stored: Mapping[str, str]
) -> None:
    """Log the params that a run does not have; those that have changed go into a tag, as MLflow keeps the first."""
    from mlflow.entities import Param

    changed = {key: value for key, value in params.items() if stored.get(key, value) != value}
    if changed:
        client.set_tag(run_id, "bonafide.resumed_with", json.dumps(changed)[:MAX_TAG_LENGTH])
    new = [Param(key, value) for key, value in params.items() if key not in stored]
    for start in range(0, len(new), MAX_PARAMS_PER_CALL):
        _log_accepted(client, run_id, new[start : start + MAX_PARAMS_PER_CALL])


def _log_accepted(client: MlflowClient, run_id: str, params: list[Param]) -> None:
    """Log params in one call, or one by one without those that the server refuses."""
    try:
        client.log_batch(run_id, params=params)
    except failures() as failure:
        if is_temporary(failure):
            raise
        if len(params) > 1:
            for param in params:
                _log_accepted(client, run_id, [param])
        else:
            warn(f"MLflow refuses the setting {params[0].key}, which run {run_id} goes without", failure)
