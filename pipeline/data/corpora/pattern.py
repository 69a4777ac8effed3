"""Patterns that parse paths and protocol cells, and templates that build ids: the notation of manifests.

    fleurs/data/{locale}/audio/{split}/{utterance}.wav      {field} captures part of one path component
    {version}/{_}/{utterance}.{_=wav|mp3}                   {_} matches without capturing; {x=a|b*} lists the choices
    processed/**/{utterance}.wav                            **/ matches any number of folders, also none
    flac/{utterance**}.flac                                 {field**} captures across folders

A field matches as little text as possible: in `{speaker}_{_}`, the speaker ends at the first underscore.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_TOKEN = re.compile(r"\*\*/|\{(?P<name>\w+)(?P<spans>\*\*)?(?:=(?P<choices>[^{}]+))?\}")
_PLACEHOLDER = re.compile(r"\{(?P<name>\w+)(?P<upper>:upper)?\}")
_GLOB = re.compile(r"\*|\?|\[[^\]]+\]")

DROPPED = "_"
"""The field that is matched but not captured."""

Fields = dict[str, str | None]
"""Values by field name; a missing name and the value None both mean unknown."""


@dataclass(frozen=True)
class Pattern:
    """Text with named placeholders, matched against a path or a cell; patterns of equal text are equal."""

    text: str
    fields: tuple[str, ...] = field(init=False, compare=False)
    """Names of the captured fields."""
    regex: re.Pattern[str] = field(init=False, compare=False, repr=False)
    is_single_field: bool = field(init=False, compare=False, repr=False)
    """Whether the pattern consists of one `{field**}`, and so matches any text."""

    def __post_init__(self) -> None:
        pieces: list[str] = []
        names: list[str] = []
        end = 0
        for token in _TOKEN.finditer(self.text):
            pieces += [_literal(self.text, end, token.start()), _placeholder_regex(token)]
            if token["name"] and token["name"] != DROPPED:
                names.append(token["name"])
            end = token.end()
        pieces.append(_literal(self.text, end, len(self.text)))
        if len(set(names)) != len(names):
            raise ValueError(f"{self.text!r} captures a field twice")
        object.__setattr__(self, "fields", tuple(names))
        object.__setattr__(self, "is_single_field", len(names) == 1 and self.text == f"{{{names[0]}**}}")
        object.__setattr__(self, "regex", re.compile("".join(pieces), re.DOTALL))

    def match(self, text: str) -> Fields | None:
        """Return the captured fields; None if the text does not match as a whole."""
        match = self.regex.fullmatch(text)
        return match.groupdict() if match else None

    def format(self, fields: Fields) -> str:
        """Fill in the fields, with `*` for unknown ones."""

        def value(token: re.Match[str]) -> str:
            return fields.get(token["name"] or "") or "*"

        return _TOKEN.sub(value, self.text)

    def expand(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield every text that the pattern can match, with its fields.

        Raises:
            ValueError: a placeholder does not list its choices, or lists a glob.
        """
        tokens = list(_TOKEN.finditer(self.text))
        if any(not token["choices"] or _GLOB.search(token["choices"]) for token in tokens):
            raise ValueError(f"{self.text!r} must list the choices of each field, like {{split=train|dev}}")
        for choices in itertools.product(*(token["choices"].split("|") for token in tokens)):
            text, end = "", 0
            for token, choice in zip(tokens, choices, strict=True):
                text += self.text[end : token.start()] + choice
                end = token.end()
            names = [token["name"] for token in tokens]
            fields = {name: choice for name, choice in zip(names, choices, strict=True) if name != DROPPED}
            yield text + self.text[end:], fields


@dataclass(frozen=True)
class Template:
    """Text to fill in: `{field}` is replaced by its value, `{field:upper}` by its value in upper case."""

    text: str
    fields: tuple[str, ...] = field(init=False, compare=False)
    _format: str = field(init=False, compare=False, repr=False)
    _upper: tuple[bool, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        placeholders = list(_PLACEHOLDER.finditer(self.text))
        text = _PLACEHOLDER.sub("\0", self.text)
        if "{" in text or "}" in text:
            raise ValueError(f"{self.text!r} has a brace that is not part of a {{field}}")
        object.__setattr__(self, "fields", tuple(each["name"] for each in placeholders))
        object.__setattr__(self, "_format", text.replace("%", "%%").replace("\0", "%s"))
        object.__setattr__(self, "_upper", tuple(bool(each["upper"]) for each in placeholders))

    def fill(self, fields: Fields) -> str:
        """Fill in the fields, with `-` for unknown ones."""
        values = [fields.get(name) or "-" for name in self.fields]
        if True in self._upper:
            values = [
                value.upper() if upper else value for value, upper in zip(values, self._upper, strict=True)
            ]
        return self._format % tuple(values)


@lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return the regular expression of a shell glob: `*`, `?` and `[abc]`; `*` also matches slashes."""
    return re.compile(_glob_regex(glob, any_text="."), re.DOTALL)


def is_glob(text: str) -> bool:
    """Whether the text has a wildcard."""
    return _GLOB.search(text) is not None


def first_match(patterns: Sequence[Pattern], text: str) -> Fields | None:
    """Return the fields of the first pattern that matches; None if none does."""
    for pattern in patterns:
        match = pattern.regex.fullmatch(text)
        if match:
            return match.groupdict()
    return None


def _literal(text: str, start: int, end: int) -> str:
    piece = text[start:end]
    if "{" in piece or "}" in piece:
        raise ValueError(f"{text!r} has a brace that is not part of a {{field}}")
    return re.escape(piece)


def _placeholder_regex(token: re.Match[str]) -> str:
    """Return the regular expression of one placeholder of a pattern."""
    name, choices = token["name"], token["choices"]
    if name is None:
        return "(?:[^/]+/)*"
    if choices:
        inside = "|".join(_glob_regex(choice, any_text="[^/]") for choice in choices.split("|"))
    else:
        inside = ".+?" if token["spans"] else "[^/]+?"
    return f"(?:{inside})" if name == DROPPED else f"(?P<{name}>{inside})"


def _glob_regex(glob: str, any_text: str) -> str:
    pieces: list[str] = []
    end = 0
    for token in _GLOB.finditer(glob):
        pieces.append(re.escape(glob[end : token.start()]))
        pieces.append({"*": f"{any_text}*", "?": any_text}.get(token[0], token[0]))
        end = token.end()
    return "".join([*pieces, re.escape(glob[end:])])
