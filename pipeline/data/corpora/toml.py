"""Strict TOML reading: every key must be expected and have the right type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.config import load_toml
from pipeline.errors import InputError

T = TypeVar("T")


def load_table(path: Path) -> TomlTable:
    """Read the top-level table of a TOML file.

    Raises:
        InputError: the file is missing or is not TOML.
    """
    return TomlTable(path, "", load_toml(path))


class TomlTable:
    """One table of a TOML file, whose keys are removed as they are read; `finish` rejects those that are left.

    All methods that read a key raise an `InputError` if its value is missing or has the wrong type.
    """

    def __init__(self, path: Path, name: str, values: Mapping[str, object]) -> None:
        self.path = path
        self.name = name
        self.values = dict(values)

    def error(self, key: str, message: str) -> InputError:
        """Return an error that names the file and the key."""
        return InputError(f"{self.path}: {self.name + '.' if self.name else ''}{key}: {message}")

    def finish(self) -> None:
        """Reject keys that were not read."""
        for key in self.values:
            raise self.error(key, "unknown key; see manifests/README.md")

    def pop(self, key: str) -> object:
        """Read and remove a required key of any type."""
        if key not in self.values:
            raise self.error(key, "is missing")
        return self.values.pop(key)

    def string(self, key: str) -> str:
        """Read a required string that is not empty."""
        value = self.pop(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"must be a non-empty string, not {value!r}")
        return value

    def optional_string(self, key: str) -> str | None:
        """Read a string; None if the key is absent."""
        return self.string(key) if key in self.values else None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Read a required string that is one of `choices`."""
        value = self.string(key)
        if value not in choices:
            raise self.error(key, f"{value!r} is not one of {', '.join(choices)}")
        return value

    def boolean(self, key: str) -> bool | None:
        """Read true or false; None if the key is absent."""
        if key not in self.values:
            return None
        value = self.pop(key)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def number(self, key: str) -> float:
        """Read a required number ≥ 0."""
        return self._numbers(key, [self.pop(key)])[0]

    def numbers(self, key: str) -> tuple[float, ...]:
        """Read a required number ≥ 0, or a list of them."""
        value = self.pop(key)
        return self._numbers(key, value if isinstance(value, list) else [value])

    def _numbers(self, key: str, values: list[object]) -> tuple[float, ...]:
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise self.error(key, f"must be a number ≥ 0, not {value!r}")
        return tuple(float(value) for value in values if isinstance(value, int | float))

    def strings(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Read a list of strings; the key is required if there is no default."""
        if default is not None and key not in self.values:
            return default
        value = self.pop(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of strings, not {value!r}")
        return tuple(value)

    def parsed(self, key: str, parse: Callable[[str], T]) -> T:
        """Read a required string and parse it; a `ValueError` of `parse` becomes an error that names the key."""
        return self._parse(key, self.string(key), parse)

    def one_or_more(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Read and parse a required string, or a list of one or more strings."""
        texts = self.strings(key) if isinstance(self.values.get(key), list) else (self.string(key),)
        if not texts:
            raise self.error(key, "is empty")
        return tuple(self._parse(key, text, parse) for text in texts)

    def _parse(self, key: str, text: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def table(self, key: str) -> TomlTable | None:
        """Read a table; None if the key is absent. Its own keys must be read, too."""
        if key not in self.values:
            return None
        value = self.pop(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table, not {value!r}")
        return TomlTable(self.path, f"{self.name}.{key}" if self.name else key, value)

    def mapping(self, key: str) -> dict[str, str]:
        """Read a table of strings; empty if the key is absent."""
        table = self.table(key)
        if table is None:
            return {}
        for name, value in table.values.items():
            if not isinstance(value, str):
                raise table.error(name, f"must be a string, not {value!r}")
        return {name: str(value) for name, value in table.values.items()}
