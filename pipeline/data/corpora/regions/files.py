"""Find the files of regions that a manifest names, and read them by their format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.data.corpora.pattern import Pattern
from pipeline.data.corpora.region_files import RegionFiles
from pipeline.data.corpora.regions.columns import read_columns
from pipeline.data.corpora.regions.row import RegionRow
from pipeline.data.corpora.regions.segments import read_segments
from pipeline.storage import Folder


class RegionFile(NamedTuple):
    """A file of regions."""

    name: str
    """Path below the root of the corpus."""
    fields: Mapping[str, str | None]
    """Fields that its path states."""


def find_region_files(rules: RegionFiles, root: Folder) -> Iterator[RegionFile]:
    """Yield the files that the patterns name and that exist, each once."""
    found = set()
    for pattern in rules.files:
        for file in _candidates(pattern, root):
            if file.name not in found:
                found.add(file.name)
                yield file


def read_region_file(rules: RegionFiles, root: Folder, file: RegionFile) -> Iterator[RegionRow]:
    """Yield the regions in a file.

    Raises:
        InputError: the file or one of its lines has another format than the manifest says.
    """
    read = read_columns if rules.segment_s is None else read_segments
    return read(rules, root, file.name, file.fields)


def _candidates(pattern: Pattern, root: Folder) -> Iterator[RegionFile]:
    try:
        expanded = list(pattern.expand())
    except ValueError:  # a field can have any value, so the folder has to be listed
        prefix = pattern.text.partition("{")[0].rpartition("/")[0]
        if root.exists(prefix):
            for info in root.find(prefix):
                fields = pattern.match(info.name)
                if fields is not None:
                    yield RegionFile(info.name, fields)
    else:
        for name, choices in expanded:
            if root.exists(name):
                yield RegionFile(name, {**choices})
