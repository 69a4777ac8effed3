"""Reads and writes tensor files: safetensors, and torch.save files without executing code.

Pickles are read by torch's weights-only loader, or else by an unpickler that builds only tensors and containers.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import InputError


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The content of one file of tensors."""

    groups: dict[str, dict[str, Tensor]]
    """Named tensors, by the keys of the dicts around them, joined by dots; of the outermost dict by ""."""
    metadata: dict[str, str]
    """Only safetensors files have any."""


def read_tensors(path: Path) -> TensorFile:
    """Read a safetensors file, or a torch.save file without the other objects in it; the content decides which.

    Raises:
        InputError: the file cannot be read, is damaged, is something else, or has no named tensors.
    """
    start = _read_start(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(_ZIP):
        _check_zip(path)
    if start.startswith((_ZIP, _PICKLE)):
        return TensorFile(_find_groups(_read_pickle(path), path), {})
    raise InputError(f"{path}: not a safetensors file, a torch file or a transformers folder")


_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_AGAIN = "it may be cut short: copy or download it again"
_START_BYTES = 256


def _read_start(path: Path) -> bytes:
    """Read the first bytes of a file; refuse what is often stored in the place of weights."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: not a regular file")
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not start:
        raise InputError(f"{path}: an empty file; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path}: a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"{path}: a web page, not a checkpoint; download it again, by the link to the raw file"
        )
    return start


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile({"": tensors}, dict(file.metadata() or {}))
    except SafetensorError as error:
        raise InputError(f"{path}: damaged safetensors file: {error}; {_AGAIN}") from error


def _check_zip(path: Path) -> None:
    """Refuse a zip file that is not one of torch.save; only its list of members is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: damaged, or not a torch.save file: {error}; {_AGAIN}") from error
    if not any(name.endswith("data.pkl") for name in names):
        raise InputError(
            f"{path}: a zip archive, not a torch.save file; unpack it, and give the checkpoint in it"
        )


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, aside, dict(metadata))
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def to_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert floating-point tensors to float32; leave integer tensors as they are."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


class _Inert:
    """Replaces every class and function in a pickle that loading weights does not need; does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...


_HARMLESS: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        return _HARMLESS.get((module, name), _Inert)


class _InertPickle:
    """The interface that torch.load expects of a pickle module."""

    Unpickler = _InertUnpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> object:
        return _InertUnpickler(file, **options).load()


def _read_pickle(path: Path) -> object:
    try:
        # This call also rejects TorchScript files, which `_read_inertly` would pass to torch.jit.load and execute.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Older files have an argparse.Namespace or omegaconf objects beside the weights.
        return _read_inertly(path)
    except Exception as error:
        raise _damaged(path, error) from error


def _read_inertly(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_InertPickle)
    except Exception as error:
        # A damaged pickle can raise any exception.
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())  # torch's messages have several lines
    return InputError(f"{path}: damaged, or not a torch.save file: {reason}")


def _find_groups(content: object, path: Path) -> dict[str, dict[str, Tensor]]:
    """Find all named tensors inside the dicts that training tools wrap around them."""
    if not isinstance(content, dict):
        kind = "object" if isinstance(content, _Inert) else type(content).__name__
        raise InputError(
            f"{path}: contains one {kind}, not named tensors; save the state_dict() of the model"
        )
    groups: dict[str, dict[str, Tensor]] = {}
    pending: deque[tuple[str, dict[object, object]]] = deque([("", content)])
    seen = set()  # a pickle can hold a dict that contains itself
    while pending:
        place, found = pending.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            groups[place] = tensors
        pending += [
            (f"{place}.{name}" if place else str(name), value)
            for name, value in found.items()
            if isinstance(value, dict)
        ]
    if not groups:
        raise InputError(f"{path}: contains no tensors")
    return groups
