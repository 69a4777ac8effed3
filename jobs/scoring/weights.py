"""The weights that a job was asked for, wherever they lie, and on their way to its workers."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import tracking
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder

if TYPE_CHECKING:
    from pipeline.detector.network import Detector, DetectorConfig


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that a user named, as a local file or folder."""

    path: Path
    uri: str
    """As it was named; of a registered detector its version, so that it stays the same one."""
    name: str
    """What people call it."""


def fetch(named: str, tracking_uri: str = "") -> Checkpoint:
    """Bring a checkpoint here: a local path, an s3:// URI, or a registered detector, `models:/NAME@best`.

    Raises:
        InputError: there is none, or what keeps it does not answer.
    """
    if named.startswith("models:/"):
        version = tracking.find_version(tracking_uri, named)
        name = f"{version.name} v{version.number}"
        if version.source.startswith("s3://"):
            return Checkpoint(_from_s3(version.source), version.uri, name)
        if version.source.startswith("/"):
            return Checkpoint(_local(version.source), version.uri, name)
        folder = _cache(version.source)
        return Checkpoint(tracking.download(tracking_uri, version, folder), version.uri, name)
    if named.startswith("s3://"):
        path = _from_s3(named)
        return Checkpoint(path, named, path.stem)
    return Checkpoint(_local(named), named, Path(named).stem)


def _local(named: str) -> Path:
    path = Path(named).expanduser()
    if not path.exists():
        raise InputError(f"{named}: no such checkpoint; train one with `bonafide train`")
    return path


def _from_s3(uri: str) -> Path:
    """Copy a file, or a folder, to this machine, unless the very same is there."""
    place, _, name = uri.rstrip("/").rpartition("/")
    remote = Folder(place)
    try:
        found = list(remote.find(name))
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no such checkpoint") from error
    # What is listed below a file is the file itself.
    is_file = len(found) == 1 and found[0].name == f"{name}/{name}" and not remote.exists(found[0].name)
    files = {name if is_file else info.name: info for info in found}
    local = Folder(str(_cache(uri, *map(_identity, found))))
    for file, info in files.items():
        if not local.exists(file):
            with remote.open(file) as source, local.staged(file) as target:
                shutil.copyfileobj(source, target, max(1, min(info.size, 16 * 2**20)))
    return Path(local.location(name))


def _identity(info: FileInfo) -> str:
    return f"{info.name} {info.size} {info.version}"


def _cache(*names: str) -> Path:
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / "bonafide" / digest


def share(detector: Detector) -> tuple[DetectorConfig, Any]:
    """Put weights where every worker of the cluster finds them: once on each machine."""
    import ray

    weights = {name: tensor.numpy() for name, tensor in detector.state_dict().items()}
    return detector.config, ray.put(weights)


def receive(shared: tuple[DetectorConfig, Any]) -> Detector:
    """The detector of `share`, on a worker."""
    import ray
    import torch

    from pipeline.detector.network import Detector

    config, reference = shared
    weights: Mapping[str, Any] = ray.get(reference)
    with torch.device("meta"):
        detector = Detector(config)
    copies = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    detector.load_state_dict(copies, strict=True, assign=True)
    return detector.eval()
