"""The section about utterances with identical samples: which corpora share them, and where that is a problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline import tables
from pipeline.card.formatting import NOT_STATED, format_hours, names_by_size
from pipeline.data.store.snapshot import Snapshot
from pipeline.report import Block, Facts, Section, Table, Text, Value
from pipeline.storage import Folder

TITLE = "Duplicates"
"""Title of the section; the overview refers to it."""

MAX_COMBINATIONS = 60
"""Maximum number of rows in the table of corpora and splits that share audio."""

NUM_EXAMPLES = 3
"""Duplicated recordings, and copies of each, that a warning names."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several utterances with the same audio."""

    id: str
    corpus: str
    split: str | None
    label: str
    seconds: float

    @property
    def corpus_and_split(self) -> str:
        """The corpus and split, such as "mls/train"."""
        return f"{self.corpus}/{self.split or NOT_STATED}"


DuplicateGroups = Sequence[Sequence[Copy]]
"""For each recording that occurs more than once, its utterances."""


def read_duplicates(store: Folder, snapshot: Snapshot) -> DuplicateGroups:
    """Read the duplicates of a snapshot; copies in corpora that the snapshot lacks are ignored."""
    if snapshot.duplicates is None:
        return []
    columns = ("id", "corpus", "split", "label", "seconds")
    table = tables.read_table(store, snapshot.duplicates, ["group", *columns])
    groups: dict[int, list[Copy]] = {}
    values = zip(*(table[column].to_pylist() for column in columns), strict=True)
    for group, row in zip(table["group"].to_pylist(), values, strict=True):
        copy = Copy(*row)
        if copy.corpus in snapshot.corpora:
            groups.setdefault(group, []).append(copy)
    return [copies for copies in groups.values() if len(copies) > 1]


def duplicate_warnings(groups: DuplicateGroups, snapshot: Snapshot) -> dict[str, str]:
    """Describe each kind of harmful duplicate: kind → warning."""
    kinds = {
        "with both labels": [copies for copies in groups if len({copy.label for copy in copies}) > 1],
        "in both training and evaluation": [
            copies for copies in groups if len({snapshot.corpora[copy.corpus].role for copy in copies}) > 1
        ],
        "in several splits of one corpus": [copies for copies in groups if _crosses_splits(copies)],
    }
    return {
        kind: f"Duplicated recordings {kind}: {len(harmful):,}, for example {_examples(harmful)}."
        for kind, harmful in kinds.items()
        if harmful
    }


def duplicates_section(groups: DuplicateGroups, snapshot: Snapshot) -> Section:
    """Show which corpora and splits share audio."""
    if not groups:
        return Section(TITLE, [Text("No two utterances have identical samples.")])
    extra = [copy for copies in groups for copy in copies[1:]]
    facts = Facts(
        [
            ("duplicated recordings", f"{len(groups):,}", "that occur more than once"),
            ("utterances", f"{sum(map(len, groups)):,}", "that have a copy"),
            (
                "redundant audio",
                format_hours(sum(copy.seconds for copy in extra) / 3600),
                f"{len(extra):,} utterances beyond the first copies",
            ),
        ]
    )
    warnings = duplicate_warnings(groups, snapshot).values()
    blocks: list[Block] = [facts, *(Text(warning, "warning") for warning in warnings)]
    counts = Counter(" + ".join(sorted({copy.corpus_and_split for copy in copies})) for copies in groups)
    ranked = names_by_size(counts)
    rows: list[list[Value]] = [[name, counts[name]] for name in ranked[:MAX_COMBINATIONS]]
    blocks.append(Table(["corpus/split", "recordings"], rows, "Corpora and splits that share audio"))
    if len(ranked) > MAX_COMBINATIONS:
        blocks.append(Text(f"{len(ranked) - MAX_COMBINATIONS} rarer combinations are not shown."))
    return Section(TITLE, blocks)


def _crosses_splits(copies: Iterable[Copy]) -> bool:
    splits: dict[str, set[str | None]] = {}
    for copy in copies:
        splits.setdefault(copy.corpus, set()).add(copy.split)
    return any(len(corpus_splits) > 1 for corpus_splits in splits.values())


def _examples(groups: DuplicateGroups) -> str:
    return "; ".join(
        " = ".join(copy.id for copy in copies[:NUM_EXAMPLES]) for copies in groups[:NUM_EXAMPLES]
    )
