"""The little language of manifests: patterns that take text apart and templates that put it together.

    fleurs/data/{locale}/audio/{split}/{utterance}.wav      {field} captures a part of one path component
    {version}/{_}/{utterance}.{_=wav|mp3}                   {_} matches and drops; {x=a|b*} lists what may stand
    processed/**/{utterance}.wav                            **/ matches any number of folders, none included
    flac/{utterance**}.flac                                 {field**} captures across folders

A field takes as little text as it can, so `{speaker}_{_}` ends the speaker at the first underscore.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_TOKEN = re.compile(r"\*\*/|\{(?P<name>\w+)(?P<spans>\*\*)?(?:=(?P<choices>[^{}]+))?\}")
_PLACE = re.compile(r"\{(?P<name>\w+)(?P<upper>:upper)?\}")
_GLOB = re.compile(r"\*|\?|\[[^\]]+\]")

DROPPED = "_"
"""The field that is matched and forgotten."""


Fields = dict[str, str | None]
"""What is known of a file; a name that is absent and one that is None mean the same."""


@dataclass(frozen=True)
class Pattern:
    """Text with named gaps; equal texts are equal patterns."""

    text: str
    fields: tuple[str, ...] = field(init=False, compare=False)
    """The names that a match captures."""
    regex: re.Pattern[str] = field(init=False, compare=False, repr=False)
    is_whole: bool = field(init=False, compare=False, repr=False)
    """Whether it is one field and nothing else, and so matches any text."""

    def __post_init__(self) -> None:
        pieces: list[str] = []
        names: list[str] = []
        end = 0
        for token in _TOKEN.finditer(self.text):
            pieces += [_literal(self.text, end, token.start()), _gap(token)]
            if token["name"] and token["name"] != DROPPED:
                names.append(token["name"])
            end = token.end()
        pieces.append(_literal(self.text, end, len(self.text)))
        if len(set(names)) != len(names):
            raise ValueError(f"{self.text!r} captures a field twice")
        object.__setattr__(self, "fields", tuple(names))
        object.__setattr__(self, "is_whole", len(names) == 1 and self.text == f"{{{names[0]}**}}")
        object.__setattr__(self, "regex", re.compile("".join(pieces), re.DOTALL))

    def match(self, text: str) -> Fields | None:
        """The captured fields if the whole text matches."""
        found = self.regex.fullmatch(text)
        return found.groupdict() if found else None

    def show(self, fields: Fields) -> str:
        """The text that these fields would come from, with `*` for what they do not say."""

        def value(token: re.Match[str]) -> str:
            return fields.get(token["name"] or "") or "*"

        return _TOKEN.sub(value, self.text)

    def expand(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Every text that a pattern of listed choices stands for, with the fields of each.

        Raises:
            ValueError: a gap has no list of plain choices.
        """
        tokens = list(_TOKEN.finditer(self.text))
        if any(not token["choices"] or _GLOB.search(token["choices"]) for token in tokens):
            raise ValueError(f"{self.text!r} must list what may stand in each gap, as {{split=train|dev}}")
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
    """Text to be filled: `{field}` stands for its value, `{field:upper}` for that in upper case."""

    text: str
    fields: tuple[str, ...] = field(init=False, compare=False)
    _form: str = field(init=False, compare=False, repr=False)
    _upper: tuple[bool, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        places = list(_PLACE.finditer(self.text))
        form = _PLACE.sub("\0", self.text)
        if "{" in form or "}" in form:
            raise ValueError(f"{self.text!r} has a brace that encloses no field")
        object.__setattr__(self, "fields", tuple(place["name"] for place in places))
        object.__setattr__(self, "_form", form.replace("%", "%%").replace("\0", "%s"))
        object.__setattr__(self, "_upper", tuple(bool(place["upper"]) for place in places))

    def fill(self, fields: Fields) -> str:
        """Put the fields in; one that is not known is written `-`."""
        values = [fields.get(name) or "-" for name in self.fields]
        if True in self._upper:
            values = [
                value.upper() if upper else value for value, upper in zip(values, self._upper, strict=True)
            ]
        return self._form % tuple(values)


@lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """A regular expression for a shell glob over one spelling: `*`, `?`, `[abc]`."""
    return re.compile(_glob_regex(glob, any_text="."), re.DOTALL)


def is_glob(text: str) -> bool:
    """Whether the text stands for more than itself."""
    return _GLOB.search(text) is not None


def first_match(patterns: Sequence[Pattern], text: str) -> Fields | None:
    for pattern in patterns:
        captured = pattern.regex.fullmatch(text)
        if captured:
            return captured.groupdict()
    return None


def _literal(text: str, start: int, end: int) -> str:
    piece = text[start:end]
    if "{" in piece or "}" in piece:
        raise ValueError(f"{text!r} has a brace that encloses no field")
    return re.escape(piece)


def _gap(token: re.Match[str]) -> str:
    """The regular expression of one token of a pattern."""
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
