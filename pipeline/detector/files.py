"""Which files a checkpoint consists of: one file, or a folder whose weights may be divided into shards.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError

CONFIG = "config.json"
"""The settings of a transformers model, beside its weights."""

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The weights in a folder; the first of these files that it has, as in transformers."""

_INDEX_SUFFIX = ".index.json"
_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_NUM_NAMED = 5


def choose_weights(names: Iterable[str], folder: str) -> str:
    """Choose the file with the weights of a folder, by the names of its files.

    Raises:
        InputError: it has none of the usual names; the message names the files that may be meant.
    """
    names = set(names)
    for name in WEIGHTS:
        if name in names:
            return name
    others = sorted(name for name in names if name.endswith(_ENDINGS))[:_NUM_NAMED]
    remedy = f"name one of its files: {', '.join(others)}" if others else "give the file of a checkpoint"
    raise InputError(f"{folder}: a folder without model.safetensors or pytorch_model.bin; {remedy}")


def find_weights(path: Path) -> Path:
    """The file with the weights of a local checkpoint, which is a file or a folder.

    Raises:
        InputError: it does not exist, or the folder has no weights.
    """
    try:
        if path.is_dir():
            return path / choose_weights([file.name for file in path.iterdir()], str(path))
        path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return path


def is_index(name: str) -> bool:
    """Whether a file is the index of shards, by its name."""
    return name.endswith(_INDEX_SUFFIX)


def parse_index(content: bytes, location: str) -> Mapping[str, str]:
    """Read an index of shards: the name of each tensor, and of the file in the same folder that holds it.

    Raises:
        InputError: the index is damaged, names no file, or names one outside of its folder.
    """
    try:
        index = json.loads(content)
    except ValueError as error:
        raise InputError(f"{location}: invalid JSON: {error}; download it again") from error
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{location}: its weight_map names no files; download the folder again")
    for shard in shards.values():
        if not isinstance(shard, str) or shard in ("", ".", "..") or PurePosixPath(shard).name != shard:
            raise InputError(f"{location}: its weight_map names {shard!r}, which is not a file of its folder")
    return shards


def missing_shard(location: str, index: str) -> InputError:
    """The error for a shard that does not exist."""
    return InputError(f"{location}: missing, but {index} names it; download the folder again")
