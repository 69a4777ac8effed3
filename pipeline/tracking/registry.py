"""Detectors in MLflow's model registry: `models:/NAME/VERSION`, `models:/NAME@best`, `models:/NAME/latest`.

The registry points to the weights where the training has put them, on S3 or beside a database of this machine, and
holds no copy. A server that speaks HTTP cannot read this machine's disk: to that one the weights are uploaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.tracking.server import connect, failures, patient, reason, warn
from pipeline.tracking.texts import clean_tags, without_credentials

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

BEST = "best"
"""The alias of the version with the lowest EER."""
# What a registration is compared by.
EER, VALIDATION, WEIGHTS = "eer", "validation", "weights"

NAME = r"[^/@:'\"]+"
MODEL_URI = re.compile(rf"models:/(?P<name>{NAME})(?:/(?P<version>\d+|latest)|@(?P<alias>[\w.-]+))")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version of a detector."""

    name: str
    number: int
    source: str
    """Where its weights lie: s3://, a local path, or an artifact URI of MLflow."""
    tags: Mapping[str, str]
    is_best: bool

    @property
    def uri(self) -> str:
        """How to ask for exactly this version."""
        return f"models:/{self.name}/{self.number}"


def check_name(name: str) -> None:
    """Raise InputError for what cannot name a registered model, before hours of training depend on it."""
    if not re.fullmatch(NAME, name):
        raise InputError(f"{name!r} cannot name a registered model: leave out / @ : and quotes")


def register(
    tracking_uri: str, name: str, weights: str, *, run_id: str, tags: Mapping[str, object], description: str
) -> Version | None:
    """Register weights as a new version of `name`; the same weights of the same run are registered once.

    The alias `best` goes to the new version if nobody has it, or if its `eer` is lower than that of the version that
    has it and both were measured on the same data (`validation`).

    weights: s3:// URI or local file; tags: of the version, `eer`, `validation` and `weights` (their digest) among them.
    Returns None, with a warning, if the server does not answer.
    """
    client = connect(tracking_uri)
    tagged = clean_tags(tags)
    try:
        version = _registered(client, name, run_id, tagged[WEIGHTS])
        if version is None:
            _create_name(client, name)
            model = _log_model(client, name, run_id, tagged)
            source = _place(client, tracking_uri, weights, model)
            client.finalize_logged_model(model.model_id, "READY")
            version = client.create_model_version(
                name, source, run_id, tagged, description=description, model_id=model.model_id
            )
        holder = _by_alias(client, name, BEST)
        is_best = holder is None or holder.version == version.version or _is_better(tagged, holder.tags)
        if is_best:
            client.set_registered_model_alias(name, BEST, version.version)
    except failures() as failure:
        warn(f"MLflow did not register {name}; run the same command again to register it", failure)
        return None
    return _version(version, is_best=is_best)


def find_model(tracking_uri: str, experiment: str, weights: str) -> str | None:
    """The id under which MLflow compares models, of the newest one with weights of this digest; None without one."""
    if not tracking_uri:
        return None
    client = connect(tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return None
        models = client.search_logged_models(
            [found.experiment_id], f"tags.`{WEIGHTS}` = '{weights}'", max_results=1
        )
    except failures() as failure:
        warn(f"MLflow at {tracking_uri} does not answer; the model was not looked up", failure)
        return None
    return str(models[0].model_id) if models else None


def find_version(tracking_uri: str, uri: str) -> Version:
    """Look up a `models:/` URI; an alias and `latest` become a number, so that all who ask get the same one.

    Raises:
        InputError: the URI is malformed, nothing of that name is registered, or the server does not answer.
    """
    if not tracking_uri:
        raise InputError(f"{uri}: give the server that it is registered with: --tracking-uri")
    asked = MODEL_URI.fullmatch(uri)
    if asked is None:
        raise InputError(f"{uri}: write models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME/latest")
    client = connect(tracking_uri)
    name = asked["name"]
    try:
        found = client.search_model_versions(f"name = '{name}'")
        holder = _by_alias(client, name, asked["alias"] or BEST) if found else None
    except failures() as failure:
        raise InputError(
            f"MLflow at {without_credentials(tracking_uri)} does not answer: {reason(failure)}"
        ) from failure
    if not found:
        raise InputError(f"{uri}: nothing is registered as {name!r} with {without_credentials(tracking_uri)}")
    if asked["alias"]:
        version = holder
    elif asked["version"] == "latest":
        version = max(found, key=_number)
    else:
        version = next((each for each in found if _number(each) == int(asked["version"])), None)
    if version is None:
        numbers = ", ".join(str(number) for number in sorted(map(_number, found)))
        raise InputError(f"{uri}: {name} has no such version or alias; its versions: {numbers}")
    return _version(version, is_best=holder is not None and holder.version == version.version)


def download(tracking_uri: str, version: Version, folder: Path) -> Path:
    """Fetch weights that lie among MLflow's artifacts into a local folder; returns the file, or the folder of it.

    Raises:
        InputError: they are not there any more, or the server does not answer.
    """
    connect(tracking_uri)
    import mlflow.artifacts

    try:
        with patient():
            found = mlflow.artifacts.download_artifacts(
                version.source, dst_path=str(folder), tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
    except failures() as failure:
        raise InputError(
            f"{version.uri}: cannot be fetched from {version.source}: {reason(failure)}"
        ) from failure
    return Path(found)


def _registered(client: MlflowClient, name: str, run_id: str, weights: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((version for version in found if version.tags.get(WEIGHTS) == weights), None)


def _create_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    words = f"Detectors of bona fide and spoofed speech: `bonafide score --checkpoint models:/{name}@{BEST}`"
    try:
        client.create_registered_model(name, description=words)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(client: MlflowClient, name: str, run_id: str, tags: Mapping[str, str]) -> LoggedModel:
    """Enter the detector into the experiment's table of models, where later evaluations add their metrics."""
    experiment_id = client.get_run(run_id).info.experiment_id
    return client.create_logged_model(
        experiment_id, name, source_run_id=run_id, tags=dict(tags), params=dict(tags), model_type="detector"
    )


def _place(client: MlflowClient, tracking_uri: str, weights: str, model: LoggedModel) -> str:
    """Where the registry shall find the weights."""
    if weights.startswith("s3://") or not tracking_uri.startswith(("http://", "https://")):
        return weights
    with patient():
        client.log_model_artifact(model.model_id, weights)
    return f"{model.artifact_location}/{Path(weights).name}"


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # the latter is what MLflow says of an alias that nobody has
        raise


def _is_better(tags: Mapping[str, str], others: Mapping[str, str]) -> bool:
    if tags[VALIDATION] != others.get(VALIDATION):
        return False
    return float(tags[EER]) < float(others[EER])


def _number(version: ModelVersion) -> int:
    return int(version.version)


def _version(version: ModelVersion, *, is_best: bool) -> Version:
    return Version(version.name, _number(version), str(version.source), dict(version.tags), is_best)
