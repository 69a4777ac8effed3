"""A labelled part of an utterance, as a file of regions states it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.data.corpora.table import Malformed, quoted


class RegionRow(NamedTuple):
    """A part of an utterance and its label."""

    key: tuple[str, ...]
    """The values of the fields in `RegionFiles.key`, which name the utterance."""
    start_s: float
    end_s: float
    label: str
    """As the file spells it."""
    line: int
    """Line in the file; 0 in a file without lines."""


def region_row(
    key_fields: tuple[str, ...], fields: Mapping[str, str | None], line: int
) -> RegionRow | Malformed:
    """Make a row of the fields of a line; the malformed row says which of them is no name, time or label."""
    key = tuple(fields.get(name) or "" for name in key_fields)
    if not all(key):
        return Malformed("no name of an utterance")
    start, length = fields.get("start") or "", fields.get("end") or fields.get("duration") or ""
    start_s, length_s = _seconds(start), _seconds(length)
    end_s = length_s if "end" in fields else start_s + length_s
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        return Malformed(f"{quoted(start)} and {quoted(length)} as times")
    if end_s < start_s:
        return Malformed(f"a region that ends at {end_s:g} s, before it starts at {start_s:g} s")
    return RegionRow(key, start_s, end_s, fields.get("label") or "", line)


def _seconds(text: str) -> float:
    """The number of seconds, or nan."""
    try:
        seconds = float(text)
    except ValueError:
        return math.nan
    return seconds if seconds >= 0 else math.nan
