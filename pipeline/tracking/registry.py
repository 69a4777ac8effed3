"""Detectors in MLflow's model registry: `models:/NAME/VERSION`, `models:/NAME@best`, `models:/NAME/latest`.

The registry refers to the weights where the training stored them, on S3 or on a local disk, and holds no copy. An HTTP
server cannot read a local disk, so local weights are uploaded to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.tracking.failures import as_input_errors, failures, reason, warn
from pipeline.tracking.server import connect, long_timeout
from pipeline.tracking.texts import MAX_TAG_LENGTH, clean_tags, without_credentials
from pipeline.tracking.uris import is_http

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

BEST = "best"
"""The alias of the version with the lowest validation error."""
# Tags that versions are compared by: their error rate, the digest of how it was measured, the digest of their weights.
ERROR, VALIDATION, WEIGHTS = "error", "validation", "weights"

NAME = r"[^/@:'\"]+"
MODEL_URI = re.compile(rf"models:/(?P<name>{NAME})(?:/(?P<version>\d+|latest)|@(?P<alias>[\w.-]+))")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version of a detector."""

    name: str
    number: int
    source: str
    """Where its weights are stored: an s3:// URI, a local path, or an artifact URI of MLflow."""
    tags: Mapping[str, str]
    is_best: bool

    @property
    def uri(self) -> str:
        """The `models:/` URI of exactly this version."""
        return f"models:/{self.name}/{self.number}"

    @property
    def digest(self) -> str | None:
        """Digest of the weights that were registered; None for a version that was not registered by `register`."""
        return self.tags.get(WEIGHTS)

    def check_weights(self, digest: str) -> None:
        """Check that weights are those that were registered: a later training may have replaced the file.

        Args:
            digest: that of the weights in `source`.

        Raises:
            InputError: the version was registered with other weights.
        """
        if self.digest not in (None, digest):
            raise InputError(
                f"{self.uri}: its weights were replaced: registered were {str(self.digest)[:12]}, but {self.source} "
                f"has {digest[:12]}; put the registered file back, or name another version: models:/{self.name}/NUMBER"
            )


def check_name(name: str) -> None:
    """Check the name of a registered model, before hours of training depend on it.

    Raises:
        InputError: MLflow would reject the name.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"--register {name!r} cannot name a registered model; it must be non-empty, without / @ : or quotes"
        )


def register(
    tracking_uri: str, name: str, weights: str, *, run_id: str, tags: Mapping[str, object], description: str
) -> Version | None:
    """Register weights as a new version of `name`; registering the same weights of the same run again adds none.

    The alias `best` moves to the new version if no version has it, or if the new `error` is lower than that of the best
    so far and both were measured in the same way on the same data (`validation`).

    Args:
        tracking_uri: tracking server or database.
        name: registered model; created if it does not exist.
        weights: s3:// URI or local file.
        run_id: run that trained the weights.
        tags: tags of the version; `error`, `validation` and `weights` (their digest) are required.
        description: shown by MLflow; Markdown.

    Returns:
        The version, or None after a warning if the server is away or refuses.
    """
    cleaned = clean_tags(tags)
    try:
        client = connect(tracking_uri)
        with as_input_errors(tracking_uri):
            version = _find_registered(client, name, run_id, cleaned[WEIGHTS])
            if version is None:
                _create_name(client, name)
                model = _log_model(client, name, run_id, cleaned)
                source = _source(client, tracking_uri, weights, model)
                client.finalize_logged_model(model.model_id, "READY")
                version = client.create_model_version(
                    name, source, run_id, cleaned, description=description, model_id=model.model_id
                )
            best = _by_alias(client, name, BEST)
            is_best = best is None or best.version == version.version or _is_better(cleaned, best.tags)
            if is_best:
                client.set_registered_model_alias(name, BEST, version.version)
    except InputError as failure:
        warn(f"MLflow could not register {name}; run the same command again to register it", failure)
        return None
    return _version(version, is_best=is_best)


def find_version(tracking_uri: str, uri: str) -> Version:
    """Look up a `models:/` URI; resolves an alias or `latest` to a number, so that all workers use the same version.

    Raises:
        InputError: the URI is malformed, no such version is registered, or the server does not respond.
    """
    if not tracking_uri:
        raise InputError(f"{uri}: give the server where the detector is registered with --tracking-uri")
    parts = MODEL_URI.fullmatch(uri)
    if parts is None:
        raise InputError(f"{uri}: write models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME/latest")
    client = connect(tracking_uri)
    name = parts["name"]
    with as_input_errors(tracking_uri):
        versions = client.search_model_versions(f"name = '{name}'")
        named = _by_alias(client, name, parts["alias"] or BEST) if versions else None
    if not versions:
        raise InputError(f"{uri}: {without_credentials(tracking_uri)} has no registered model {name!r}")
    if parts["alias"]:
        version = named
    elif parts["version"] == "latest":
        version = max(versions, key=_number)
    else:
        version = next((each for each in versions if _number(each) == int(parts["version"])), None)
    if version is None:
        numbers = ", ".join(str(number) for number in sorted(map(_number, versions)))
        raise InputError(f"{uri}: {name} has no such version or alias; its versions: {numbers}")
    return _version(version, is_best=named is not None and named.version == version.version)


def check_tag(version: Version, key: str, value: str) -> None:
    """Check that MLflow takes a tag.

    Raises:
        InputError: the value is too long.
    """
    if len(value) > MAX_TAG_LENGTH:
        raise InputError(
            f"{version.uri}: the tag {key} would have {len(value):,} characters, and MLflow takes {MAX_TAG_LENGTH:,}; "
            "delete the tag in MLflow, or use files instead"
        )


def set_version_tag(tracking_uri: str, version: Version, key: str, value: str) -> None:
    """Set a tag of a registered version.

    Raises:
        InputError: the value is too long, or the server refuses or does not respond.
    """
    check_tag(version, key, value)
    client = connect(tracking_uri)
    with as_input_errors(tracking_uri):
        client.set_model_version_tag(version.name, str(version.number), key, value)


def download(tracking_uri: str, version: Version, folder: Path) -> Path:
    """Download weights from MLflow's artifacts into a local folder; returns the path of the file or folder.

    Raises:
        InputError: the artifact does not exist, or the server does not respond.
    """
    connect(tracking_uri)
    import mlflow.artifacts

    try:
        with long_timeout():
            path = mlflow.artifacts.download_artifacts(
                version.source, dst_path=str(folder), tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
    except failures() as failure:
        raise InputError(
            f"{version.uri}: cannot be downloaded from {version.source}: {reason(failure)}"
        ) from failure
    return Path(path)


def _find_registered(client: MlflowClient, name: str, run_id: str, weights: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((version for version in versions if version.tags.get(WEIGHTS) == weights), None)


def _create_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    description = (
        f"Detectors of bona fide and spoofed speech: `bonafide score --checkpoint models:/{name}@{BEST}`"
    )
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(client: MlflowClient, name: str, run_id: str, tags: Mapping[str, str]) -> LoggedModel:
    """Add the detector to the experiment's table of models, where later evaluations add their metrics."""
    experiment_id = client.get_run(run_id).info.experiment_id
    return client.create_logged_model(
        experiment_id, name, source_run_id=run_id, tags=dict(tags), params=dict(tags), model_type="detector"
    )


def _source(client: MlflowClient, tracking_uri: str, weights: str, model: LoggedModel) -> str:
    """Where the registry finds the weights; uploads local ones if the server cannot read this machine's disk."""
    if weights.startswith("s3://") or not is_http(tracking_uri):
        return weights
    with long_timeout():
        client.log_model_artifact(model.model_id, weights)
    return f"{model.artifact_location}/{Path(weights).name}"


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # MLflow raises the latter for an alias that no version has
        raise


def _is_better(tags: Mapping[str, str], best: Mapping[str, str]) -> bool:
    if tags[VALIDATION] != best.get(VALIDATION):
        return False
    return float(tags[ERROR]) < float(best[ERROR])


def _number(version: ModelVersion) -> int:
    return int(version.version)


def _version(version: ModelVersion, *, is_best: bool) -> Version:
    return Version(version.name, _number(version), str(version.source), dict(version.tags), is_best)
