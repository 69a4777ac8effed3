"""Reads and writes tensor files: safetensors, and torch.save files without executing code.

Pickles are read by torch's weights-only loader, or else by an unpickler that builds only tensors and containers.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import InputError


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: damaged safetensors file: {error}") from error


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


def read_torch(path: Path) -> dict[str, Tensor]:
    """Read the weights from a torch.save file, and ignore all other objects in it.

    Raises:
        InputError: the file is damaged or has no named tensors.
    """
    return _find_weights(_read_pickle(path), path)


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


def _find_weights(content: object, path: Path) -> dict[str, Tensor]:
    """Find the state_dict inside the dicts that training tools wrap around it."""
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise InputError(f"{path}: contains a {type(content).__name__}, not named tensors")
    weights = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"{path}: contains no tensors")
    return weights
