"""Translate the fields of a corpus into ours, and add to each problem the class that loses the utterance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.data.corpora.manifest import ANY, Manifest
from pipeline.data.corpora.pattern import Fields, compile_glob, first_match, is_glob
from pipeline.data.corpora.utterance import ARTIFACTS, SPLITS, Problem

SPOOF_FIELDS = ("attack", "artifact")
"""Fields that only spoofed utterances have; the cells of bona fide rows are ignored."""

CACHED_SPELLINGS = 100_000
"""Maximum number of cached translations per field."""


class Fault(NamedTuple):
    """A value that the manifest does not explain."""

    field: str
    value: str | None
    expected: str

    @property
    def reason(self) -> str:
        """The reason of the problem that it causes."""
        return f"unknown-{self.field}"

    @property
    def detail(self) -> str:
        """What was found and what was expected."""
        return f"{self.value!r}{self.expected}"


class Translator:
    """The constants, `parse` and `translate` of a manifest, applied to the fields of one utterance at a time."""

    def __init__(self, manifest: Manifest) -> None:
        self.constants = manifest.constants
        self.labels = manifest.labels
        self.parse = manifest.parse
        # The label comes first: attack and artifact are ignored for bona fide speech.
        translated = sorted(manifest.translate, key=lambda name: name != "label")
        self.spellings = {name: Spellings(manifest.translate[name]) for name in translated}
        self.languages = None if ANY in manifest.languages else frozenset(manifest.languages)

    def translate(self, fields: Fields) -> Fault | None:
        """Translate all fields in place. An unknown value becomes None, and the first one is returned."""
        faults: list[Fault] = []
        for parsed, patterns in self.parse.items():
            value = fields.get(parsed)
            if value is None:
                continue
            captured = first_match(patterns, value)
            if captured is None:
                faults.append(Fault(parsed, value, f" matches no pattern of parse.{parsed}"))
            else:
                fields.update(captured)
        for name, spellings in self.spellings.items():
            value = fields.get(name)
            if value is None or (name in SPOOF_FIELDS and fields.get("label") == "bonafide"):
                continue
            try:
                fields[name] = spellings[value]
            except KeyError:
                faults.append(Fault(name, value, f"; known: {', '.join(spellings.table)}"))
                fields[name] = None
        self._check(fields, faults)
        return faults[0] if faults else None

    def _check(self, fields: Fields, faults: list[Fault]) -> None:
        """Check the translated values of the fields that every utterance has."""
        label, split, language = fields.get("label"), fields.get("split"), fields.get("language")
        if label not in self.labels:
            faults.append(Fault("label", label, f"; known: {', '.join(self.labels)}"))
            fields["label"] = None
        if split is not None and split not in SPLITS:
            faults.append(Fault("split", split, f"; known: {', '.join(SPLITS)}"))
            fields["split"] = None
        if language is not None and self.languages is not None and language not in self.languages:
            faults.append(Fault("language", language, " is not listed in languages"))
            fields["language"] = None
        artifact = fields.get("artifact")
        if label == "spoof" and artifact not in ARTIFACTS:
            faults.append(Fault("artifact", artifact, f"; known: {', '.join(ARTIFACTS)}"))
            fields["artifact"] = None

    def problem(self, path: str, reason: str, detail: str, fields: Mapping[str, str | None]) -> Problem:
        """Return a problem with its class, as far as fields that are not yet translated tell it."""
        translated = {**self.constants, **fields}
        self.translate(translated)
        return classified(path, reason, detail, translated)


def classified(path: str, reason: str, detail: str, fields: Fields) -> Problem:
    """Return a problem with the class that translated fields state."""
    label = fields.get("label")
    return Problem(
        path,
        reason,
        detail,
        label,
        artifact=fields.get("artifact") if label == "spoof" else None,
        attack=fields.get("attack") if label != "bonafide" else None,
        language=fields.get("language"),
    )


class Spellings(dict[str, str | None]):
    """Translations by spelling, with cached glob matches; an unlisted spelling raises `KeyError`."""

    def __init__(self, table: Mapping[str, str]) -> None:
        super().__init__()
        self.table = {
            spelling: translation for listed, translation in table.items() for spelling in listed.split("|")
        }
        self.globs = [
            (compile_glob(spelling), translation)
            for spelling, translation in self.table.items()
            if is_glob(spelling)
        ]

    def __missing__(self, spelling: str) -> str | None:
        translation = self._look_up(spelling)
        result = spelling if translation == ANY else translation or None
        if len(self) < CACHED_SPELLINGS:
            self[spelling] = result
        return result

    def _look_up(self, spelling: str) -> str:
        if spelling in self.table:
            return self.table[spelling]
        for glob, translation in self.globs:
            if glob.fullmatch(spelling):
                return translation
        raise KeyError(spelling)
