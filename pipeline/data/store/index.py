"""The training index: position, length and label of every utterance as a struct of arrays, 33 bytes per utterance."""

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

from pipeline.data.corpora.domains import DOMAIN_COLUMNS, By, Domain, DomainRule, number_domains
from pipeline.data.corpora.recipe import Recipe, Use
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.store import layout
from pipeline.data.store.shard_tables import map_indexes
from pipeline.data.store.shared import share_folder
from pipeline.data.store.snapshot import Snapshot, snapshot_shards
from pipeline.storage import Folder, user_folder

FORMAT = 2
"""Version of the arrays; processes share an index only with those of the same version."""

COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "num_bytes": np.int32,
    "seconds": np.float32,
    "label": np.int8,
    "domain": np.int32,
    "uid": np.uint64,
}
"""The arrays of an index and their types."""

INDEX_COLUMNS = ["uid", "offset", "num_bytes", "seconds", "split", *DOMAIN_COLUMNS]
"""Columns of the shards' indexes from which the training index is made."""

CHECKED_ROWS = 8_000_000
"""Rows of an index that are checked at once, so that the temporary arrays stay small."""


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive rows of an index."""

    domains: tuple[Domain, ...]
    """The domains of these rows."""
    columns: Mapping[str, NDArray[Any]]
    """The arrays of `COLUMNS`; `domain` is a position in `domains` above."""


@dataclass(frozen=True, eq=False)
class Index:
    """Utterances sorted by (shard, offset); read-only and shared, never copied.

    Raises:
        ValueError: a column has the wrong type or length, a value out of range, or is not sorted; or a label is not
            that of the domain.
    """

    shards: tuple[str, ...]
    """Tar names relative to the store."""
    corpora: tuple[str, ...]
    """All corpora from which utterances were chosen, also those that have none."""
    domains: tuple[Domain, ...]
    """In the order of their first utterances."""
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
    domain: NDArray[np.int32]
    """[N] Position in `domains`, which also gives the corpus."""
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
        _check_range("domain", self.domain, len(self.domains))
        _check_range("shard", self.shard, len(self.shards))
        labels = np.array([LABELS.index(domain.label) for domain in self.domains], np.int8)
        for begin in range(0, len(self), CHECKED_ROWS):
            rows = slice(begin, begin + CHECKED_ROWS)
            if not np.array_equal(labels[self.domain[rows]], self.label[rows]):
                raise ValueError("index column label differs from the labels of the domains")
            self._check_order(slice(begin, begin + CHECKED_ROWS + 1))

    def _check_order(self, rows: slice) -> None:
        shard, offset = self.shard[rows], self.offset[rows]
        later = offset[1:] > offset[:-1]
        later &= shard[1:] == shard[:-1]
        later |= shard[1:] > shard[:-1]
        if not later.all():
            row = rows.start + int(np.argmin(later)) + 1
            raise ValueError(f"index row {row} must follow row {row - 1}: sort rows by shard and offset")

    def __len__(self) -> int:
        return len(self.shard)

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[object, ...]]:
        if self.folder is not None:
            return map_index, (self.folder,)
        return Index, (self.shards, self.corpora, self.domains, *self.part().columns.values())

    @functools.cached_property
    def first_row(self) -> NDArray[np.int64]:
        """[shards + 1] The first row of each shard, then the number of rows."""
        return np.searchsorted(self.shard, np.arange(len(self.shards) + 1, dtype=np.int32))

    def part(self) -> Part:
        """All rows as one part."""
        return Part(self.domains, {name: getattr(self, name) for name in COLUMNS})

    def save(self, folder: Path) -> None:
        """Write the arrays for `map_index`."""
        write_index(folder, self.shards, self.corpora, [self.part()])


def join_index(shards: tuple[str, ...], corpora: tuple[str, ...], parts: Iterable[Part]) -> Index:
    """An index in memory, from consecutive parts."""
    numbers: dict[Domain, int] = {}
    joined = [_empty_columns(), *(_numbered(part, numbers) for part in parts)]
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in joined]) for name in COLUMNS}
    return Index(shards, corpora, tuple(numbers), **columns)


def write_index(
    folder: Path, shards: tuple[str, ...], corpora: tuple[str, ...], parts: Iterable[Part]
) -> None:
    """Write an index for `map_index`, one part at a time; replaces an existing one only when complete."""
    staged = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    staged.mkdir(parents=True)
    num_rows = 0
    numbers: dict[Domain, int] = {}
    with contextlib.ExitStack() as stack:
        files = {name: cast("BinaryIO", stack.enter_context((staged / name).open("xb"))) for name in COLUMNS}
        for part in parts:
            columns = _numbered(part, numbers)
            for name, dtype in COLUMNS.items():
                assert columns[name].dtype == dtype
                files[name].write(np.ascontiguousarray(columns[name]).data)
            num_rows += len(columns["uid"])
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    domains = [(domain.corpus, domain.label, domain.name) for domain in numbers]
    tables = {"num_rows": num_rows, "shards": shards, "corpora": corpora, "domains": domains}
    (staged / "tables.json").write_text(json.dumps(tables))
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def _numbered(part: Part, numbers: dict[Domain, int]) -> dict[str, NDArray[Any]]:
    """The columns of a part with the domains numbered as in `numbers`, to which those that are new are added."""
    table = [numbers.setdefault(domain, len(numbers)) for domain in part.domains]
    return {**part.columns, "domain": np.array(table, np.int32)[part.columns["domain"]]}


def _empty_columns() -> dict[str, Any]:
    return {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}


def map_index(folder: Path) -> Index:
    """Map a written index into memory; the processes of a machine share its pages."""
    tables = json.loads((folder / "tables.json").read_text())
    num_rows = tables["num_rows"]
    columns = _empty_columns()
    if num_rows:  # an empty file cannot be mapped
        for name, dtype in COLUMNS.items():
            columns[name] = np.memmap(folder / name, dtype, "r", shape=num_rows).view(np.ndarray)
    domains = tuple(Domain(*domain) for domain in tables["domains"])
    return Index(tuple(tables["shards"]), tuple(tables["corpora"]), domains, **columns, folder=folder)


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
        recipe: decides which utterances train and which validate, which artifacts count as spoof, and what the domains
            of the training utterances are; those of other utterances are always by attack.
        use: which utterances to load.
        shared: folder in which the processes of a machine share indexes, see `node_folder`; None keeps the arrays in
            this process.
    """
    tars = tuple(layout.tar_name(*shard) for shard in snapshot_shards(snapshot))
    corpora = tuple(snapshot.corpora)
    if shared is None:
        return join_index(tars, corpora, _index_parts(store, snapshot, recipe, use))
    # Only what decides the arrays: how often a domain is drawn is computed from them.
    rules = asdict(replace(recipe, name="", weights={}, domains=DomainRule()))
    by = _division(recipe, use)
    key = json.dumps([FORMAT, snapshot.digest, tars, corpora, rules, by, use], sort_keys=True)
    return share_folder(
        shared / hashlib.sha256(key.encode()).hexdigest()[:16],
        map_index,
        lambda folder: write_index(folder, tars, corpora, _index_parts(store, snapshot, recipe, use)),
    )


def _index_parts(store: Folder, snapshot: Snapshot, recipe: Recipe, use: Use) -> Iterator[Part]:
    """The rows of each shard, in the order of the shards."""
    to_part = functools.partial(_index_part, recipe=recipe, use=use)
    parts = map_indexes(to_part, store, snapshot_shards(snapshot), INDEX_COLUMNS)
    for number, part in enumerate(parts):
        shard = np.full(len(part.columns["uid"]), number, np.int32)
        yield Part(part.domains, {**part.columns, "shard": shard})


def _division(recipe: Recipe, use: Use) -> By:
    """What divides the utterances of a use into domains."""
    return recipe.domains.by if use == "train" else "attack"


def _index_part(table: pa.Table, recipe: Recipe, use: Use) -> Part:
    """The rows of a shard, sorted by their offset in the tar; all columns but `shard`."""
    table = recipe.relabel(table.filter(pa.array(recipe.mask(table, use)))).sort_by("offset")
    domains, domain = number_domains(table, _division(recipe, use))
    labels = np.array([LABELS.index(each.label) for each in domains], np.int8)
    columns = {
        "offset": table["offset"].to_numpy(),
        "num_bytes": table["num_bytes"].to_numpy(),
        "seconds": table["seconds"].to_numpy(),
        "label": labels[domain],
        "domain": domain,
        "uid": uid_numbers(table["uid"]),
    }
    return Part(domains, columns)


def uid_numbers(uids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """[N] Hexadecimal uids as numbers."""
    return np.frombuffer(bytes.fromhex("".join(uids.to_pylist())), ">u8").astype(np.uint64)
