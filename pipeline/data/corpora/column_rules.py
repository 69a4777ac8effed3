"""The keys of a manifest that say which columns a table of labels has."""

from __future__ import annotations

import re

from pipeline.data.corpora.pattern import Pattern
from pipeline.data.corpora.table import SEPARATORS
from pipeline.data.corpora.toml import TomlTable


def parse_columns(table: TomlTable) -> tuple[tuple[Pattern | None, ...], dict[str, Pattern]]:
    """The columns by position, and those by name; at most one of the two is not empty."""
    by_name = table.table("columns") if isinstance(table.values.get("columns"), dict) else None
    named = {key: by_name.parsed(key, _column) for key in list(by_name.values)} if by_name else {}
    columns = tuple(_column(text) for text in table.strings("columns", ()))
    return columns, {name: column for name, column in named.items() if column}


def parse_separator(table: TomlTable) -> str:
    """The kind of separator between columns; `space` by default."""
    return table.choice("separator", tuple(SEPARATORS)) if "separator" in table.values else "space"


def _column(text: str) -> Pattern | None:
    """Return the pattern of a column: a field (`speaker`), text with fields (`{utterance}.wav`), or "" for unused."""
    return parse_line(text if "{" in text else f"{{{text}}}") if text else None


def parse_line(text: str) -> Pattern:
    """Return a pattern whose fields may contain slashes, because cells of a table can hold paths."""
    return Pattern(re.sub(r"\{(\w+)\}", r"{\1**}", text))
