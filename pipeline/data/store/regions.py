"""The regions of a corpus: which parts of its utterances are spoofed, in a table beside the shards.

No tar has them, so other labels rebuild no audio. Either all regions of an utterance are in the table, or none: what
does not fit is counted by reason.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import tables
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.pattern import first_match
from pipeline.data.corpora.region_files import RegionFiles
from pipeline.data.corpora.regions.files import RegionFile, find_region_files, read_region_file
from pipeline.data.corpora.translation import Spellings
from pipeline.data.store.catalog import CATALOG
from pipeline.data.store.layout import regions_name
from pipeline.data.store.read_ahead import read_ahead
from pipeline.metrics.timeline import REGION_LABELS
from pipeline.progress import counted
from pipeline.storage import Folder

REGIONS = pa.schema(
    [
        ("uid", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),  # of REGION_LABELS
    ]
)
"""Columns of a table of regions, in order; sorted by uid and start."""

JOINED_COLUMNS = ("uid", "path", "label", "seconds", "problem")
"""Columns of a catalog to which regions are joined."""

MAX_EXCESS_S = 0.02
"""How far a region may exceed its utterance, one frame; or one segment, where segments are labelled. It is cut."""

MAX_OVERLAP_S = 0.001
"""Up to this much, an overlap is rounding, and the earlier region is cut."""

FILE_READERS = 32
"""Files of regions that are read at once."""

_UNKNOWN, _AMBIGUOUS, _LOST = -1, -2, -3
_UNUSABLE = {_UNKNOWN: "unknown-utterance", _AMBIGUOUS: "ambiguous-utterance", _LOST: "lost-utterance"}
"""In place of the number of an utterance: there is none of that name, there are several, or it was rejected or
excluded."""


@dataclass(frozen=True, slots=True)
class RegionSummary:
    """What a snapshot records about the regions of a corpus."""

    digest: str
    """16 hex digits that depend on the content of the table alone; the name of its file."""
    num_utterances: int
    """Utterances that have regions."""
    seconds: dict[str, float]
    """Duration of the regions by label."""
    problems: dict[str, int]
    """What does not fit, by reason: names of utterances in the files, utterances, or regions (`empty`)."""
    examples: dict[str, str]
    """The first problem of each reason."""

    def describe(self) -> list[str]:
        """Say how much has regions, and then what does not fit, one line for each reason."""
        hours = ", ".join(f"{seconds / 3600:.2f} h {label}" for label, seconds in self.seconds.items())
        lines = [f"regions of {counted(self.num_utterances, 'utterance')}{': ' if hours else ''}{hours}"]
        for reason, example in self.examples.items():
            number = self.problems[reason]
            lines.append(f"  {f'{number} ' if number else ''}{reason}, first: {example}")
        return lines


def commit_regions(
    store: Folder, manifest: Manifest, root: Folder, catalog: str, report: Callable[[], None] = lambda: None
) -> RegionSummary:
    """Read the regions of a corpus, check them, and write the table.

    Args:
        store: has the catalog of the corpus.
        manifest: names the files.
        root: folder of the corpus.
        catalog: path of the catalog in the store.
        report: called after each file of regions.

    Raises:
        InputError: a file of regions has another format than the manifest says.
    """
    rows = tables.read_columns(store, catalog, CATALOG, JOINED_COLUMNS)
    table, summary = collect_regions(manifest, root, rows, report)
    store.commit(regions_name(manifest.name, summary.digest), tables.to_parquet(table))
    return summary


def collect_regions(
    manifest: Manifest, root: Folder, rows: pa.Table, report: Callable[[], None] = lambda: None
) -> tuple[pa.Table, RegionSummary]:
    """Read the regions of a corpus and check them.

    Args:
        manifest: names the files.
        root: folder of the corpus.
        rows: everything found in the corpus, with the columns JOINED_COLUMNS of a catalog; an utterance of unknown
            duration can have regions of any.
        report: called after each file of regions.

    Returns:
        The table with the columns REGIONS, and what a snapshot records.

    Raises:
        InputError: a file of regions has another format than the manifest says.
    """
    assert manifest.regions is not None
    utterances = _utterances(manifest, rows)
    problems = _Problems()
    parts = _read_files(manifest.regions, root, utterances, problems, report)
    table = _checked(manifest.regions, parts, utterances, problems)
    totals = table.append_column("seconds", pc.subtract(table["end_s"], table["start_s"]))
    totals = totals.group_by("label").aggregate([("seconds", "sum")]).sort_by("label")
    return table, RegionSummary(
        digest=_digest(table),
        num_utterances=pc.count_distinct(table["uid"]).as_py(),
        seconds=dict(zip(totals["label"].to_pylist(), totals["seconds_sum"].to_pylist(), strict=True)),
        problems=dict(sorted(problems.counts.items())),
        examples=dict(sorted(problems.examples.items())),
    )


def read_regions(store: Folder, corpus: str, digest: str) -> pa.Table:
    """The regions of a corpus."""
    return tables.read_columns(store, regions_name(corpus, digest), REGIONS)


def find_fault(store: Folder, corpus: str, digest: str) -> str | None:
    """What is wrong with the table of regions of a corpus in the store, or None."""
    name = store.location(regions_name(corpus, digest))
    try:
        is_intact = _digest(read_regions(store, corpus, digest)) == digest
    except FileNotFoundError:
        return f"{name} is missing"
    except pa.ArrowException as error:
        return f"{name} cannot be read: {error}"
    return None if is_intact else f"{name} has changed"


class _Problems:
    """What does not fit, by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: str, number: int = 1) -> None:
        self.counts[reason] += number
        self.examples.setdefault(reason, example)


class _Utterances(NamedTuple):
    """The utterances of a corpus, by number."""

    uids: list[str]
    paths: list[str]
    is_spoof: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    """Infinite where it is unknown."""
    by_key: dict[tuple[str, ...], int]
    """The number of each by the fields on which regions are joined, in the Unicode form NFC."""


class _Part(NamedTuple):
    """The regions in one file."""

    file: str
    utterances: array[int]
    """The number of the utterance of each region."""
    starts_s: array[float]
    ends_s: array[float]
    labels: list[str]
    """As the file spells them."""
    lines: array[int]
    unusable: dict[tuple[str, ...], tuple[str, int]]
    """Reason and line of each name that is not that of one utterance."""


def _utterances(manifest: Manifest, rows: pa.Table) -> _Utterances:
    """The utterances among the rows of a catalog."""
    assert manifest.regions is not None
    key_fields = manifest.regions.key

    def keys(paths: list[str]) -> Iterator[tuple[str, ...] | None]:
        for path in paths:
            fields = first_match(manifest.audio, path)
            yield None if fields is None else _key(fields[name] or "" for name in key_fields)

    is_utterance = pc.is_null(rows["problem"])
    others = rows.filter(pc.invert(is_utterance))["path"].to_pylist()
    rows = rows.filter(is_utterance)
    paths = rows["path"].to_pylist()
    by_key = {key: _LOST for key in keys(others) if key}
    for number, key in enumerate(keys(paths)):
        if key:
            by_key[key] = number if by_key.get(key, _LOST) == _LOST else _AMBIGUOUS
    return _Utterances(
        uids=rows["uid"].to_pylist(),
        paths=paths,
        is_spoof=np.array([label == "spoof" for label in rows["label"].to_pylist()], np.bool_),
        seconds=np.nan_to_num(rows["seconds"].to_numpy(), nan=np.inf),
        by_key=by_key,
    )


def _key(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part if part.isascii() else unicodedata.normalize("NFC", part) for part in parts)


def _read_files(
    rules: RegionFiles, root: Folder, utterances: _Utterances, problems: _Problems, report: Callable[[], None]
) -> list[_Part]:
    """Read all files of regions; names that are not those of one utterance are problems."""

    def read(file: RegionFile) -> _Part:
        part = _Part(file.name, array("q"), array("d"), array("d"), [], array("q"), {})
        for row in read_region_file(rules, root, file):
            key = _key(row.key)
            number = utterances.by_key.get(key, _UNKNOWN)
            if number < 0:
                part.unusable.setdefault(key, (_UNUSABLE[number], row.line))
                continue
            part.utterances.append(number)
            part.starts_s.append(row.start_s)
            part.ends_s.append(row.end_s)
            part.labels.append(sys.intern(row.label))
            part.lines.append(row.line)
        return part

    parts = []
    files = find_region_files(rules, root)
    for part in read_ahead(read, files, num_threads=FILE_READERS, num_ahead=2 * FILE_READERS):
        for key, (reason, line) in part.unusable.items():
            problems.add(reason, f"{_place(part.file, line)}: {'/'.join(key)}")
        parts.append(part._replace(unusable={}))
        report()
    if not parts:
        names = ", ".join(pattern.text for pattern in rules.files)
        problems.add("no-files", f"there is no {names}", 0)
    return parts


class _Rows(NamedTuple):
    """Regions, sorted by utterance and start."""

    utterances: NDArray[np.int64]
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    labels: NDArray[np.str_]
    """As the files spell them."""
    files: NDArray[np.int64]
    """Number of the file of each region, in the order in which they were read."""
    lines: NDArray[np.int64]

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> _Rows:
        return _Rows(
            self.utterances[rows],
            self.starts_s[rows],
            self.ends_s[rows],
            self.labels[rows],
            self.files[rows],
            self.lines[rows],
        )


def _sorted_rows(parts: Sequence[_Part]) -> _Rows:
    rows = _Rows(
        utterances=np.concatenate([np.empty(0, np.int64), *(np.array(part.utterances) for part in parts)]),
        starts_s=np.concatenate([np.empty(0), *(np.array(part.starts_s) for part in parts)]),
        ends_s=np.concatenate([np.empty(0), *(np.array(part.ends_s) for part in parts)]),
        labels=np.array([label for part in parts for label in part.labels], np.str_),
        files=np.repeat(np.arange(len(parts)), [len(part.lines) for part in parts]),
        lines=np.concatenate([np.empty(0, np.int64), *(np.array(part.lines) for part in parts)]),
    )
    return rows.select(np.lexsort((rows.starts_s, rows.utterances)))


def _checked(
    rules: RegionFiles, parts: Sequence[_Part], utterances: _Utterances, problems: _Problems
) -> pa.Table:
    """The table of all regions of those utterances of which all fit."""
    rows = _sorted_rows(parts)
    is_dropped = np.bincount(rows.utterances, minlength=len(utterances.uids)) == 0
    if is_dropped.any():
        number = int(np.count_nonzero(is_dropped))
        problems.add("no-regions", utterances.paths[int(np.argmax(is_dropped))], number)

    def describe(row: int) -> str:
        place = _place(parts[rows.files[row]].file, int(rows.lines[row]))
        return f"{place}: {rows.starts_s[row]:g} to {rows.ends_s[row]:g} s"

    def drop(reason: str, is_bad: NDArray[np.bool_], detail: Callable[[int], str]) -> None:
        """Drop the utterances of bad regions that are not dropped yet."""
        bad = np.flatnonzero(is_bad & ~is_dropped[rows.utterances])
        if bad.size:
            first = int(bad[0])
            dropped = np.unique(rows.utterances[bad])
            problems.add(reason, f"{describe(first)}{detail(first)}", dropped.size)
            is_dropped[dropped] = True

    spellings = Spellings(rules.labels)
    spelled, positions = np.unique(rows.labels, return_inverse=True)
    codes = np.array([_code(spellings, str(label)) for label in spelled], np.int64)[positions]
    drop("unknown-label", codes < 0, lambda row: f" has the label {str(rows.labels[row])!r}")
    seconds = utterances.seconds[rows.utterances]
    is_beyond = rows.ends_s > seconds + max(MAX_EXCESS_S, rules.segment_s or 0) + 1e-9
    drop("beyond-end", is_beyond, lambda row: f", but the utterance has {seconds[row]:g} s")
    is_empty = rows.ends_s <= rows.starts_s
    if is_empty.any():
        problems.add("empty", describe(int(np.argmax(is_empty))), int(np.count_nonzero(is_empty)))

    ends_s = np.minimum(rows.ends_s, seconds)
    has_time = ends_s > rows.starts_s
    rows, ends_s, codes = rows.select(has_time), ends_s[has_time], codes[has_time]
    overlap_s = np.zeros(ends_s.size)
    is_same = rows.utterances[1:] == rows.utterances[:-1]
    overlap_s[1:][is_same] = (ends_s[:-1] - rows.starts_s[1:])[is_same]
    drop(
        "overlap",
        overlap_s > MAX_OVERLAP_S,
        lambda row: f" overlaps the region before it by {overlap_s[row]:g} s",
    )
    ends_s[:-1] -= np.maximum(overlap_s[1:], 0)
    has_spoof = np.zeros(is_dropped.size, np.bool_)
    has_spoof[rows.utterances[codes == REGION_LABELS.index("spoof")]] = True
    contradicts = (has_spoof != utterances.is_spoof)[rows.utterances]
    drop(
        "contradicts-label",
        contradicts,
        lambda row: f": {_contradiction(utterances.is_spoof[rows.utterances[row]])}",
    )

    kept = ~is_dropped[rows.utterances] & (ends_s > rows.starts_s)
    table = pa.table(
        [
            pa.array(utterances.uids, pa.string()).take(pa.array(rows.utterances[kept])),
            rows.starts_s[kept],
            ends_s[kept],
            pa.array(REGION_LABELS).take(pa.array(codes[kept])),
        ],
        schema=REGIONS,
    )
    return table.sort_by([("uid", "ascending"), ("start_s", "ascending")]).combine_chunks()


def _code(spellings: Spellings, label: str) -> int:
    """The position of a label in REGION_LABELS, or -1 for an unknown spelling."""
    try:
        return list[str | None](REGION_LABELS).index(spellings[label])
    except KeyError:
        return -1


def _contradiction(is_spoof: bool) -> str:
    return "no region of the spoofed utterance is spoofed" if is_spoof else "the utterance is bona fide"


def _place(file: str, line: int) -> str:
    return f"{file}:{line}" if line else file


def _digest(table: pa.Table) -> str:
    """16 hex digits of the rows, which do not depend on how they are encoded in a file."""
    digest = hashlib.sha256()
    for name in ("uid", "label"):
        digest.update("\0".join(table[name].to_pylist()).encode())
    for name in ("start_s", "end_s"):
        digest.update(table[name].to_numpy().astype("<f8").tobytes())
    return digest.hexdigest()[:16]
