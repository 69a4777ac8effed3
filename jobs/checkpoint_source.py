"""Where a command takes weights from: a local file or folder, S3, or MLflow's registry of detectors.

`--init` of `bonafide train` and `--checkpoint` of `bonafide score` name the same kinds of places.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline import tracking
from pipeline.detector.files import CONFIG, choose_weights, find_weights, is_index, missing_shard, parse_index
from pipeline.errors import InputError, UnreadableError
from pipeline.storage import FileInfo, Folder, user_folder

COPY_BUFFER_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine."""

    path: Path
    """Local file with the weights, or the index of their shards; other files of the checkpoint are beside it."""
    uri: str
    """Name that the user gave; for a registered detector the URI of its version, because `@best` may move."""
    name: str
    """Short name for tables."""
    version: tracking.Version | None = None
    """The registered version, if the checkpoint is one."""

    def check(self, digest: str) -> None:
        """Check that the weights that were loaded are the registered ones.

        Raises:
            InputError: the file has been replaced since it was registered.
        """
        if self.version is not None:
            self.version.check_weights(digest)


def fetch_checkpoint(uri: str, tracking_uri: str = "") -> Checkpoint:
    """Find a checkpoint, and download it if it is not a local file.

    Args:
        uri: local path, s3:// URI, or registered detector: `models:/NAME/VERSION` or `models:/NAME@best`.
        tracking_uri: MLflow server or database, for a registered detector.

    Raises:
        InputError: the checkpoint does not exist, or the server that stores it does not answer.
    """
    if uri.startswith("models:"):
        version = tracking.find_version(tracking_uri, uri)
        path = _fetch_registered(version, tracking_uri)
        return Checkpoint(path, version.uri, f"{version.name} v{version.number}", version)
    return Checkpoint(_fetch(uri), uri, PurePosixPath(uri).stem)


def _fetch(location: str) -> Path:
    if location.startswith("s3://"):
        return _download_from_s3(location)
    path = location.removeprefix("file://")
    if "://" in path:
        raise InputError(
            f"{location}: only local paths, s3:// and models:/ URIs are supported; download it, and give the file"
        )
    try:
        return find_weights(Path(path).expanduser().absolute())
    except RuntimeError as error:
        raise InputError(f"{location}: {error}") from error  # ~ of a user who does not exist


def _fetch_registered(version: tracking.Version, tracking_uri: str) -> Path:
    source = version.source.removeprefix("file://")
    if not source.startswith(("s3://", "/")):
        return _download_from_mlflow(version, tracking_uri)
    try:
        return _fetch(source)
    except InputError as error:
        raise InputError(f"{version.uri} is registered with weights that cannot be used: {error}") from error


def _download_from_mlflow(version: tracking.Version, tracking_uri: str) -> Path:
    """Copy the artifact of a version to this machine; a copy of the registered weights is used again."""
    folder = _cache_folder(version.source, version.digest or "")
    path = folder / PurePosixPath(version.source).name
    if version.digest is not None and path.exists():
        return find_weights(path)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        tracking.download(tracking_uri, version, Path(aside) / folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            (Path(aside) / folder.name).rename(folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # else another process has just made the same copy
                raise
    return find_weights(path)


def _download_from_s3(uri: str) -> Path:
    """Copy a checkpoint to this machine, unless the same versions of its files have been copied before."""
    remote, name = _find_on_s3(uri)
    infos = list(_files_of(remote, name))
    local = Folder(str(_cache_folder(remote.uri, *map(_version_key, infos))))
    for info in infos:
        if not local.exists(info.name):
            _copy(remote, info, local)
    return Path(local.location(name))


def _find_on_s3(uri: str) -> tuple[Folder, str]:
    """The folder and the name of the weights: an object, which can have a folder of the same name beside it, or those
    of a folder."""
    parent, _, name = uri.rpartition("/")
    is_empty_object = False
    if name and parent != "s3:/":
        with contextlib.suppress(FileNotFoundError):
            if Folder(parent).info(name).size:
                return Folder(parent), name
            is_empty_object = True  # some programs mark a folder by an empty object of its name
    folder = Folder(uri)
    try:
        names = [info.name for info in folder.find() if "/" not in info.name]
    except FileNotFoundError as error:
        if is_empty_object:
            return Folder(parent), name
        raise InputError(f"{uri}: no such checkpoint") from error
    return folder, choose_weights(names, folder.uri)


def _files_of(remote: Folder, name: str) -> Iterator[FileInfo]:
    """The file with the weights or the index of shards, the shards, and the settings beside them."""
    try:
        yield remote.info(name)
        shards = set(parse_index(remote.read(name), remote.location(name)).values()) if is_index(name) else ()
    except FileNotFoundError as error:
        raise InputError(f"{remote.location(name)}: no such checkpoint") from error
    for shard in sorted(shards):
        try:
            yield remote.info(shard)
        except FileNotFoundError as error:
            raise missing_shard(remote.location(shard), name) from error
    with contextlib.suppress(FileNotFoundError, UnreadableError):  # most checkpoints have no settings
        yield remote.info(CONFIG)


def _copy(remote: Folder, info: FileInfo, local: Folder) -> None:
    with remote.open(info.name, info.size) as source, local.staged(info.name) as target:
        shutil.copyfileobj(source, target, max(1, min(info.size, COPY_BUFFER_BYTES)))
        if remote.info(info.name).version != info.version:
            raise InputError(
                f"{remote.location(info.name)}: was replaced while it was copied; run the same command again"
            )


def _version_key(info: FileInfo) -> str:
    return f"{info.name} {info.size} {info.version}"


def _cache_folder(*keys: str) -> Path:
    """The folder for a copy, which no other user of this machine can write to."""
    digest = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:16]
    return user_folder("checkpoints") / digest
