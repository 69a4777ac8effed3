"""The weights of a detector: from a checkpoint to this machine, and from this machine to the workers."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import tracking
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder, local_errors, user_folder

if TYPE_CHECKING:
    from pipeline.detector.network import Detector, DetectorConfig

COPY_BUFFER_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine."""

    path: Path
    """Local file or folder."""
    uri: str
    """Name that the user gave; for a registered detector the URI of its version, because `@best` may move."""
    name: str
    """Short name for tables."""


def fetch_checkpoint(uri: str, tracking_uri: str = "") -> Checkpoint:
    """Find a checkpoint, and download it if it is not a local file.

    Args:
        uri: local path, s3:// URI, or registered detector: `models:/NAME/VERSION` or `models:/NAME@best`.
        tracking_uri: MLflow server or database, for a registered detector.

    Raises:
        InputError: the checkpoint does not exist, or the server that stores it does not answer.
    """
    if uri.startswith("models:/"):
        version = tracking.find_version(tracking_uri, uri)
        name = f"{version.name} v{version.number}"
        if version.source.startswith("s3://"):
            path = _download_from_s3(version.source)
        elif version.source.startswith("/"):
            path = _local_path(version.source)
        else:
            cache = _cache_folder(version.source)
            with local_errors(str(cache)):
                path = tracking.download(tracking_uri, version, cache)
        return Checkpoint(path, version.uri, name)
    path = _download_from_s3(uri) if uri.startswith("s3://") else _local_path(uri)
    return Checkpoint(path, uri, path.stem)


def _local_path(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(
            f"{name}: no such checkpoint; correct --checkpoint, or train one with `bonafide train`"
        )
    return path


def _download_from_s3(uri: str) -> Path:
    """Copy a file or folder to this machine, unless the same versions of its files have been copied before."""
    parent, _, name = uri.rstrip("/").rpartition("/")
    remote = Folder(parent)
    infos = _files_of(remote, name, uri)
    local = Folder(str(_cache_folder(uri, *map(_version_key, infos))))
    for info in infos:
        if not local.exists(info.name):
            with remote.open(info.name, info.size) as source, local.staged(info.name) as target:
                shutil.copyfileobj(source, target, max(1, min(info.size, COPY_BUFFER_BYTES)))
    return Path(local.location(name))


def _files_of(remote: Folder, name: str, uri: str) -> list[FileInfo]:
    """The files of a checkpoint: the one file that it is, beside which S3 may have a folder, or those in its folder."""
    with contextlib.suppress(FileNotFoundError):
        return [remote.info(name)]
    try:
        return list(remote.find(name))
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no such checkpoint; correct --checkpoint") from error


def _version_key(info: FileInfo) -> str:
    return f"{info.name} {info.size} {info.version}"


def _cache_folder(*keys: str) -> Path:
    digest = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:16]
    return user_folder("checkpoints") / digest


@dataclass(frozen=True)
class SharedDetector:
    """A detector in Ray's object store, which keeps one copy of the weights per machine."""

    config: DetectorConfig
    weights: Any
    """Ray reference to a dictionary: name → array."""


def put_detector(detector: Detector) -> SharedDetector:
    """Put a detector into Ray's object store."""
    import ray

    weights = {name: tensor.numpy() for name, tensor in detector.state_dict().items()}
    return SharedDetector(detector.config, ray.put(weights))


def get_detector(shared: SharedDetector) -> Detector:
    """Build a worker's own copy of a shared detector, in evaluation mode on the CPU."""
    import ray
    import torch

    from pipeline.detector.network import Detector

    weights: Mapping[str, Any] = ray.get(shared.weights)
    with torch.device("meta"):
        detector = Detector(shared.config)
    copies = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    detector.load_state_dict(copies, strict=True, assign=True)
    return detector.eval()
