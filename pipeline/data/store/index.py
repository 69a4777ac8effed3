"""The training index: position, length and label of every utterance as a struct of arrays, 31 bytes per utterance."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.corpora.recipe import Recipe, Use
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.store import layout
from pipeline.data.store.shard_tables import map_indexes
from pipeline.data.store.shared import share_folder
from pipeline.data.store.snapshot import Snapshot, snapshot_shards
from pipeline.storage import Folder, user_folder

FORMAT = 1
"""Version of the arrays; processes share an index only with those of the same version."""

COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "num_bytes": np.int32,
    "seconds": np.float32,
    "label": np.int8,
    "corpus": np.int16,
    "uid": np.uint64,
}
"""The arrays of an index and their types."""

Part = dict[str, NDArray[Any]]
"""Some rows of each column."""

INDEX_COLUMNS = ["uid", "offset", "num_bytes", "seconds", "label", "artifact", "corpus", "split"]
"""Columns of the shards' indexes from which the training index is made."""


@dataclass(frozen=True, eq=False)
class Index:
    """Utterances sorted by (shard, offset); read-only and shared, never copied.

    Raises:
        ValueError: a column has the wrong type or length, a value out of range, or is not sorted.
    """

    shards: tuple[str, ...]
    """Tar names relative to the store."""
    corpora: tuple[str, ...]
    shard: NDArray[np.int32]
    """[N] Position in `shards`."""
    offset: NDArray[np.int64]
    """[N] First byte of the FLAC in the tar."""
    num_bytes: NDArray[np.int32]
    """[N] Length of the FLAC, bytes."""
    seconds: NDArray[np.float32]
    """[N] Exact duration of the FLAC: number of samples / 16 000."""
    label: NDArray[np.int8]
    """[N] Position in `utterance.LABELS`: 0 spoof, 1 bona fide."""
    corpus: NDArray[np.int16]
    """[N] Position in `corpora`."""
    uid: NDArray[np.uint64]
    """[N] The uid as a number."""
    folder: Path | None = field(default=None, compare=False)
    """The folder that the arrays are mapped from, or None; a mapped index is pickled as this path."""

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != self.shard.shape or column.ndim != 1:
                raise ValueError(
                    f"index column {name} is {column.dtype}{list(column.shape)}, "
                    f"not {np.dtype(dtype)}{list(self.shard.shape)}"
                )
        if not len(self):
            return
        _check_range("label", self.label, 2)
        _check_range("corpus", self.corpus, len(self.corpora))
        _check_range("shard", self.shard, len(self.shards))
        before, after = self.shard[:-1], self.shard[1:]
        later = self.offset[1:] > self.offset[:-1]
        later &= after == before
        later |= after > before
        if not later.all():
            row = int(np.argmin(later)) + 1
            raise ValueError(f"index row {row} must follow row {row - 1}: sort rows by shard and offset")

    def __len__(self) -> int:
        return len(self.shard)

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[object, ...]]:
        if self.folder is not None:
            return map_index, (self.folder,)
        return Index, (self.shards, self.corpora, *(getattr(self, name) for name in COLUMNS))

    def save(self, folder: Path) -> None:
        """Write the arrays for `map_index`."""
        write_index(folder, self.shards, self.corpora, [{name: getattr(self, name) for name in COLUMNS}])


def join_index(shards: tuple[str, ...], corpora: tuple[str, ...], parts: Iterable[Part]) -> Index:
    """An index in memory, from consecutive parts."""
    empty = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
    joined = [empty, *parts]
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in joined]) for name in COLUMNS}
    return Index(shards, corpora, **columns)


def write_index(
    folder: Path, shards: tuple[str, ...], corpora: tuple[str, ...], parts: Iterable[Part]
) -> None:
    """Write an index for `map_index`, one part at a time; replaces an existing one only when complete."""
    staged = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    staged.mkdir(parents=True)
    num_rows = 0
    with contextlib.ExitStack() as stack:
        files = {name: cast("BinaryIO", stack.enter_context((staged / name).open("xb"))) for name in COLUMNS}
        for part in parts:
            for name, dtype in COLUMNS.items():
                assert part[name].dtype == dtype
                files[name].write(np.ascontiguousarray(part[name]).data)
            num_rows += len(part["uid"])
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    tables = {"num_rows": num_rows, "shards": shards, "corpora": corpora}
    (staged / "tables.json").write_text(json.dumps(tables))
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def map_index(folder: Path) -> Index:
    """Map a written index into memory; the processes of a machine share its pages."""
    tables = json.loads((folder / "tables.json").read_text())
    num_rows = tables["num_rows"]
    columns: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
    if num_rows:  # an empty file cannot be mapped
        for name, dtype in COLUMNS.items():
            columns[name] = np.memmap(folder / name, dtype, "r", shape=num_rows).view(np.ndarray)
    return Index(tuple(tables["shards"]), tuple(tables["corpora"]), **columns, folder=folder)


def node_folder() -> Path:
    """The folder in which the processes of this user share indexes on this machine."""
    return user_folder("indexes")


def _check_range(name: str, column: NDArray[np.integer], limit: int) -> None:
    if column.min() < 0 or column.max() >= limit:
        raise ValueError(
            f"index column {name} has values from {column.min()} to {column.max()}; allowed: 0 to {limit - 1}"
        )


def load_index(
    store: Folder,
    snapshot: Snapshot,
    recipe: Recipe,
    use: Use,
    shared: Path | None = None,
) -> Index:
    """Load the training index: position, length and label of every utterance, as arrays.

    Args:
        store: holds the shards.
        snapshot: lists the shards; see `choose_corpora`.
        recipe: decides which utterances train and which validate, and which artifacts count as spoof.
        use: which utterances to load.
        shared: folder in which the processes of a machine share indexes, see `node_folder`; None keeps the arrays in
            this process.
    """
    tars = tuple(layout.tar_name(*shard) for shard in snapshot_shards(snapshot))
    corpora = tuple(snapshot.corpora)
    if shared is None:
        return join_index(tars, corpora, _index_parts(store, snapshot, recipe, use))
    rules = asdict(replace(recipe, name="", weights={}))
    key = json.dumps([FORMAT, snapshot.digest, tars, corpora, rules, use], sort_keys=True)
    return share_folder(
        shared / hashlib.sha256(key.encode()).hexdigest()[:16],
        map_index,
        lambda folder: write_index(folder, tars, corpora, _index_parts(store, snapshot, recipe, use)),
    )


def _index_parts(store: Folder, snapshot: Snapshot, recipe: Recipe, use: Use) -> Iterator[Part]:
    """The rows of each shard, in the order of the shards."""
    corpora = {name: position for position, name in enumerate(snapshot.corpora)}
    to_part = functools.partial(_index_part, corpora=corpora, recipe=recipe, use=use)
    parts = map_indexes(to_part, store, snapshot_shards(snapshot), INDEX_COLUMNS)
    for number, part in enumerate(parts):
        yield part | {"shard": np.full(len(part["uid"]), number, np.int32)}


def _index_part(table: pa.Table, corpora: Mapping[str, int], recipe: Recipe, use: Use) -> Part:
    """The rows of a shard, sorted by their offset in the tar; all columns but `shard`."""
    table = recipe.relabel(table.filter(pa.array(recipe.mask(table, use)))).sort_by("offset")
    return {
        "offset": table["offset"].to_numpy(),
        "num_bytes": table["num_bytes"].to_numpy(),
        "seconds": table["seconds"].to_numpy(),
        "label": _codes(table["label"], {label: code for code, label in enumerate(LABELS)}, np.int8),
        "corpus": _codes(table["corpus"], corpora, np.int16),
        "uid": _numbers(table["uid"]),
    }


def _numbers(uids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """[N] Hexadecimal uids as numbers."""
    return np.frombuffer(bytes.fromhex("".join(uids.to_pylist())), ">u8").astype(np.uint64)


def _codes(column: pa.ChunkedArray, number: Mapping[str, int], dtype: type[np.signedinteger[Any]]) -> Any:
    """[N] Each name of a column as its number."""
    encoded = pa.chunked_array(column.chunks, type=pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = np.array([number[name] for name in encoded.dictionary.to_pylist()], dtype)
    return codes[encoded.indices.to_numpy(zero_copy_only=False)]
