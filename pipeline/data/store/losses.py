"""Count what was found, written and lost in each class of a corpus, and say which classes lost too much.

A class is one value of a dimension: a label, an attack, a language, or a tool (container and codec of the file). A
detector learns from what is missing as much as from what is there: if all files of one attack are damaged, the total
of the rejects looks harmless, and the attack is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.data.corpora.recipe import EXCLUDED
from pipeline.data.store.layout import rejects_name
from pipeline.data.store.read_ahead import read_ahead
from pipeline.data.store.shard_tables import REJECTS, ShardSummary
from pipeline.storage import Folder

DIMENSIONS = ("label", "attack", "language", "tool")

UNKNOWN = "unknown"
"""The class of utterances of which a dimension is not stated, or could not be read."""

NOT_LOST = frozenset(("duplicate-row", "known-bad", "contradictory"))
"""Problems that lose no utterance: the first of equal rows is kept, a manifest names known bad files, and a file whose
rows contradict each other is counted by these rows, which have a label."""

UNLISTED = frozenset(("stray", "unlisted"))
"""Problems of files that the publisher does not list; they lose an utterance only if their path states its label."""

MAX_LOSS = 0.05
"""A class that loses a larger share of its utterances is named in a warning."""

MIN_LOST = 3
"""A class that loses fewer utterances, but not all, is not named: 1 of 3 may be chance."""

MAX_CLASSES = 1000
"""Classes of one dimension that a snapshot records; those with the most losses are kept."""

MAX_NAMED = 8
"""Classes that a warning names; the rest are only counted."""

MAX_REASONS = 3
"""Reasons that a warning gives for each class; the rest are only counted."""

BATCH_ROWS = 65_536
"""Catalog rows that are counted at a time."""

REJECTS_READERS = 32
"""Tables of rejects that are read at once."""


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The utterances of one class of a corpus; found = written + lost + excluded."""

    dimension: str
    """One of `DIMENSIONS`."""
    name: str
    """A value of the dimension, or `UNKNOWN`."""
    found: int
    written: int
    excluded: int = 0
    """Utterances that a recipe left out."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Lost utterances by reason."""

    @property
    def lost(self) -> int:
        """Utterances that could not be written."""
        return sum(self.reasons.values())

    @property
    def wanted(self) -> int:
        """Utterances that would have been written if nothing were lost."""
        return self.written + self.lost


@dataclass(frozen=True, slots=True)
class ClassTally:
    """The counts of all classes of a corpus."""

    classes: tuple[ClassCounts, ...]
    """In the order of `DIMENSIONS`; of attacks only those that lost something."""
    num_uncounted: int
    """Rows of the catalog that are no loss; see `NOT_LOST` and `UNLISTED`."""


def count_classes(store: Folder, corpus: str, catalog: str, shards: Iterable[ShardSummary]) -> ClassTally:
    """Count the utterances of every class of a corpus, in one pass over its catalog.

    Args:
        store: holds the catalog and the rejects.
        corpus: name of the corpus.
        catalog: path of its catalog in the store.
        shards: its shards; the rejects of those that have any are read.
    """
    outcomes: dict[tuple[str, str], Counter[str]] = {}  # an empty problem means written
    num_uncounted = 0
    for rows in _catalog_rows(store, corpus, catalog, [shard.name for shard in shards if shard.rejected]):
        for dimension in DIMENSIONS:
            for name, label, problem, count in _count(rows, dimension):
                if problem in NOT_LOST or (label is None and problem in UNLISTED):
                    num_uncounted += count if dimension == "label" else 0
                elif dimension != "attack" or label == "spoof":
                    outcomes.setdefault((dimension, name or UNKNOWN), Counter())[problem or ""] += count
    return ClassTally(tuple(_class_counts(outcomes)), num_uncounted)


def _count(rows: pa.Table, dimension: str) -> Iterator[tuple[str | None, str | None, str | None, int]]:
    """The number of rows with each class of a dimension, label and problem."""
    columns = list(dict.fromkeys([dimension, "label", "problem"]))
    counts = rows.group_by(columns).aggregate([([], "count_all")])
    return zip(
        *(counts[name].to_pylist() for name in (dimension, "label", "problem", "count_all")), strict=True
    )


def _class_counts(outcomes: Mapping[tuple[str, str], Counter[str]]) -> Iterator[ClassCounts]:
    classes: dict[str, list[ClassCounts]] = {dimension: [] for dimension in DIMENSIONS}
    for (dimension, name), counts in outcomes.items():
        excluded = sum(count for problem, count in counts.items() if problem.startswith(EXCLUDED))
        reasons = {
            problem: count
            for problem, count in sorted(counts.items())
            if problem and not problem.startswith(EXCLUDED)
        }
        if reasons or dimension != "attack":
            classes[dimension].append(
                ClassCounts(dimension, name, counts.total(), counts[""], excluded, reasons)
            )
    for members in classes.values():
        members.sort(key=lambda counts: (-counts.lost, counts.name))
        yield from sorted(members[:MAX_CLASSES], key=lambda counts: counts.name)


def _catalog_rows(store: Folder, corpus: str, catalog: str, rejecting: Sequence[str]) -> Iterator[pa.Table]:
    """The classes and problems of a catalog in small tables; members that their shard rejected have its reason.

    Args:
        store: holds the catalog and the rejects.
        corpus: name of the corpus.
        catalog: path of its catalog in the store.
        rejecting: shards that have rejects, in the order of the catalog.
    """
    columns = ["label", "attack", "language", "container", "codec", "problem", "shard"]
    columns += ["uid"] if rejecting else []
    rejects = _Rejects(store, corpus, rejecting)
    with store.open(catalog) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                rows = pa.Table.from_batches([batch])
                yield pa.table(
                    {
                        **{name: rows[name] for name in ("label", "attack", "language")},
                        "tool": _tool(rows["container"], rows["codec"]),
                        "problem": rejects.complete(rows),
                    }
                )


class _Rejects:
    """The tables of rejects of a corpus, read while the catalog is counted."""

    def __init__(self, store: Folder, corpus: str, shards: Sequence[str]) -> None:
        def read(shard: str) -> tuple[str, pa.Table]:
            return shard, tables.read_table(store, rejects_name(corpus, shard), ["uid", "reason"])

        self._rejecting = frozenset(shards)
        self._following = iter(
            read_ahead(read, shards, num_threads=REJECTS_READERS, num_ahead=2 * REJECTS_READERS)
        )
        self._shard, self._table = "", REJECTS.empty_table()

    def complete(self, rows: pa.Table) -> pa.ChunkedArray:
        """The problems of catalog rows, with the reasons of those members that their shard rejected."""
        problem = rows["problem"]
        for shard in pc.unique(rows["shard"]).to_pylist():
            if shard in self._rejecting:
                while shard != self._shard:
                    self._shard, self._table = next(self._following)
                position = pc.index_in(rows["uid"], self._table["uid"].combine_chunks())
                problem = pc.coalesce(problem, self._table["reason"].take(position))
        return problem


def _tool(container: pa.ChunkedArray, codec: pa.ChunkedArray) -> pa.ChunkedArray:
    """Container and codec as one name, `wav/pcm` or `flac`; null if the header could not be read."""
    joined = pc.binary_join_element_wise(container, codec, "/")
    return pc.if_else(pc.equal(container, codec), codec, joined)


def severe_losses(classes: Sequence[ClassCounts], max_loss: float = MAX_LOSS) -> list[ClassCounts]:
    """The classes that lost all their utterances, or too large a share; labels first, then the largest losses.

    Unknown classes are rests, so they are named for another reason: because of a spelling that the manifest does not
    list, which stands for a class that is gone, or because too large a share of all utterances has no known label.

    Args:
        classes: all classes of a corpus.
        max_loss: largest share that a class may lose; 0 names every class that lost anything.
    """
    labels = [counts for counts in classes if counts.dimension == "label"]
    total = sum_labels(classes)
    min_lost = MIN_LOST if max_loss else 1
    # The only language of a corpus, for example, would repeat what is said of all utterances, or of a label.
    repeated = [(counts.wanted, counts.reasons) for counts in (total, *labels)]

    def is_severe(counts: ClassCounts) -> bool:
        if counts.name == UNKNOWN and counts.reasons.get(f"unknown-{counts.dimension}", 0) >= min_lost:
            return True
        if counts.name != UNKNOWN and counts.lost and not counts.written:
            return True
        if counts.dimension != "label" and (
            counts.name == UNKNOWN or (counts.wanted, counts.reasons) in repeated
        ):
            return False
        return counts.lost >= min_lost and lost_share(counts, total) > max_loss

    return sorted(
        filter(is_severe, classes),
        key=lambda counts: (counts.dimension != "label", counts.written > 0, -counts.lost, counts.name),
    )


def sum_labels(classes: Iterable[ClassCounts]) -> ClassCounts:
    """The counts of all utterances of a corpus: the sum over its labels."""
    labels = [counts for counts in classes if counts.dimension == "label"]
    reasons = sum((Counter(counts.reasons) for counts in labels), Counter[str]())
    found, written, excluded = (
        sum(getattr(counts, name) for counts in labels) for name in ("found", "written", "excluded")
    )
    return ClassCounts("label", UNKNOWN, found, written, excluded, dict(reasons))


def lost_share(counts: ClassCounts, total: ClassCounts) -> float:
    """The lost utterances of a class as a fraction of its wanted ones; of unknown ones, as a fraction of all.

    Args:
        counts: one class of a corpus.
        total: all utterances of the corpus, from `sum_labels`.
    """
    return counts.lost / ((total if counts.name == UNKNOWN else counts).wanted or 1)


def loss_warning(corpus: str, classes: Sequence[ClassCounts], max_loss: float = MAX_LOSS) -> str | None:
    """One line that names the classes of a corpus that lost too much, or None if there are none.

    Args:
        corpus: name of the corpus.
        classes: all its classes.
        max_loss: see `severe_losses`.
    """
    total = sum_labels(classes)
    if total.lost and not total.written:
        number = "its only utterance" if total.lost == 1 else f"all {total.lost} utterances"
        return f"{corpus} lost {number} ({format_reasons(total.reasons)})"
    severe = severe_losses(classes, max_loss)
    if not severe:
        return None
    named = sorted(severe[:MAX_NAMED], key=lambda counts: counts.name == UNKNOWN or counts.written > 0)
    phrases = [_phrase(counts, total.wanted) for counts in named]
    if len(severe) > MAX_NAMED:
        phrases.append(f"too many of {len(severe) - MAX_NAMED} other classes")
    return f"{corpus} lost {'; '.join(phrases)}"


def _phrase(counts: ClassCounts, num_wanted: int) -> str:
    """What one class lost: `all 4 utterances of attack A07 (truncated)`."""
    reasons = format_reasons(counts.reasons)
    if counts.name == UNKNOWN:
        return (
            f"{counts.lost} of all {num_wanted} utterances, whose {counts.dimension} is unknown ({reasons})"
        )
    number = f"{counts.lost} of {counts.wanted}" if counts.written else f"all {counts.lost}"
    utterances = "utterance" if counts.wanted == 1 else "utterances"
    if counts.dimension == "label":
        return f"{number} {counts.name} {utterances} ({reasons})"
    name = " ".join(counts.name.split())  # a line end in a name must not end the line
    return f"{number} {utterances} of {counts.dimension} {name} ({reasons})"


def format_reasons(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons: `truncated`, or `3 truncated, 1 silent`."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) == 1:
        return ranked[0][0]
    parts = [f"{count} {reason}" for reason, count in ranked[:MAX_REASONS]]
    num_more = sum(count for _, count in ranked[MAX_REASONS:])
    return ", ".join([*parts, f"{num_more} other"] if num_more else parts)
