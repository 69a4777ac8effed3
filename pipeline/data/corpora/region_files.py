"""The table `regions` of a manifest: which files label parts of utterances, and in which format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.data.corpora.column_rules import parse_columns, parse_separator
from pipeline.data.corpora.pattern import Pattern, compile_glob
from pipeline.data.corpora.table import leaves_root
from pipeline.data.corpora.toml import TomlTable
from pipeline.metrics.timeline import REGION_LABELS

REGION_FIELDS = ("start", "end", "duration", "label")
"""Fields of a region, which do not join it to an utterance; all times are seconds from the start of the file."""


@dataclass(frozen=True)
class RegionFiles:
    """Files that label parts of utterances, joined to the audio files on the fields that both have."""

    files: tuple[Pattern, ...]
    """Paths below the root; the fields of a path belong to all regions of the file."""
    labels: Mapping[str, str]
    """The label, of REGION_LABELS, of each spelling; as in `Manifest.translate`, but no spelling is kept as it is."""
    separator: str = "space"
    columns: tuple[Pattern | None, ...] = ()
    """As in `Protocol`. Every row is a region, unless there is `each`."""
    named_columns: Mapping[str, Pattern] = field(default_factory=dict)
    each: Pattern | None = None
    """Pattern of each further cell of a row, which is a region then."""
    skip: tuple[str, ...] = ()
    """Globs of whole lines that are no regions, such as comments."""
    segment_s: float | None = None
    """Instead of columns: NumPy files of a dictionary that has a list of labels, of segments of equal duration, for
    each value of the field `utterance`."""

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields of a region."""
        columns = [column for column in (*self.columns, *self.named_columns.values(), self.each) if column]
        names = [name for pattern in (*self.files[:1], *columns) for name in pattern.fields]
        return tuple(dict.fromkeys(names + ["utterance"] * (self.segment_s is not None)))

    def skips(self, line: str) -> bool:
        """Whether a line is none of regions."""
        return any(compile_glob(glob).fullmatch(line.strip()) for glob in self.skip)

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The fields on which regions and files are joined."""
        return tuple(name for name in self.fields if name not in REGION_FIELDS)


def parse_regions(table: TomlTable | None) -> RegionFiles | None:
    """Read the table `regions`; None if there is none.

    Raises:
        InputError: a key is unknown, missing or wrong.
    """
    if table is None:
        return None
    columns, named = parse_columns(table)
    regions = RegionFiles(
        files=table.one_or_more("files", Pattern),
        labels=table.mapping("labels"),
        separator=parse_separator(table),
        columns=columns,
        named_columns=named,
        each=table.parsed("each", Pattern) if "each" in table.values else None,
        skip=table.strings("skip", ()),
        segment_s=table.number("segment_s") if "segment_s" in table.values else None,
    )
    table.finish()
    _check_format(table, regions)
    for pattern in regions.files:
        if leaves_root(pattern.text):
            raise table.error("files", f"{pattern.text!r} is not a path below the root")
        if set(pattern.fields) != set(regions.files[0].fields):
            raise table.error("files", "all patterns must have the same fields")
    if not regions.labels:
        raise table.error("labels", "is missing")
    for label in regions.labels.values():
        if label not in REGION_LABELS:
            raise table.error("labels", f"{label!r} is not one of {', '.join(REGION_LABELS)}")
    return regions


def _check_format(table: TomlTable, regions: RegionFiles) -> None:
    """Check that the rules describe one format, and all fields of a region.

    Raises:
        InputError: they do not.
    """
    columns, named = regions.columns, regions.named_columns
    if sum((bool(columns), bool(named), regions.segment_s is not None)) != 1:
        raise table.error("columns", "give exactly one of: a list of columns, a table of columns, segment_s")
    if regions.segment_s == 0:
        raise table.error("segment_s", "must be above 0")
    if regions.each and not columns:
        raise table.error("each", "needs a list of columns")
    if regions.skip and regions.segment_s is not None:
        raise table.error("skip", "needs columns; a NumPy file has no lines")
    if regions.segment_s is None:
        lacking = {"start", "label"} - set(regions.fields)
        if lacking or len({"end", "duration"} & set(regions.fields)) != 1:
            raise table.error("columns", "give start, label, and one of end and duration")
