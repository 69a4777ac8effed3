"""Manifests: what a corpus is and how its files and tables are read, one short TOML each.

A field is a constant, else read from the path, else from the protocol table; then it is translated; a spelling
that is not listed is an error. `manifests/README.md` describes the schema by examples.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.corpora.pattern import Pattern, Template
from pipeline.data.corpora.toml import TomlTable, load_toml
from pipeline.data.corpora.utterance import ARTIFACTS, LABELS, SPLITS
from pipeline.errors import InputError

MANIFESTS = Path(__file__).parents[3] / "manifests"

ROLES = ("train", "evaluation")

UNKNOWN = "unknown"
"""The licence of which nothing is known; never guessed."""

SEPARATORS = {"space": None, "comma": ",", "tab": "\t", "pipe": "|"}

ANY = "*"
"""In `languages`: others too. As a translation: the spelling as it is."""


@dataclass(frozen=True)
class ExpectedHours:
    """Hours of audio according to the literature; None where it does not say."""

    bonafide: float | None = None
    spoof: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class Protocol:
    """A corpus's own table of labels, joined to its files by the fields that both have."""

    files: tuple[Pattern, ...]
    """Names below the root; `{split=train|dev}` names several, and is a field of their rows."""
    separator: str = "space"
    columns: tuple[Pattern | None, ...] = ()
    """What each column holds, by position, in a table without a header; None drops one."""
    named_columns: Mapping[str, Pattern] = field(default_factory=dict)
    """What columns hold, by their names in the header; the others are dropped."""
    lines: tuple[Pattern, ...] = ()
    """Instead of columns: what whole lines look like; one that captures nothing is no row."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row, in a fixed order."""
        columns = [column for column in self.columns if column] + list(self.named_columns.values())
        patterns = [*self.files[:1], *columns, *self.lines]
        return tuple(dict.fromkeys(name for pattern in patterns for name in pattern.fields))


@dataclass(frozen=True)
class Chunks:
    """Files are cut into consecutive pieces of equal length; the shorter last one is kept."""

    seconds: float
    """The length if the user asks for no other."""
    choices: tuple[float, ...]
    """The lengths that published results use."""


@dataclass(frozen=True)
class Manifest:
    """A published corpus: its names, its terms, and how to read it."""

    name: str
    folder: str
    """The folder that holds it below the data root; two corpora may share one."""
    role: str
    """One of `ROLES`."""
    id: Template
    homepage: str
    licence: str
    """An SPDX identifier, `public-domain`, or `unknown`."""
    non_commercial: bool | None
    """Whether the licence forbids commercial use; None if the licence is unknown."""
    languages: tuple[str, ...]
    """Every code that occurs; `*` if there are others; empty if nothing is known."""
    sources: tuple[str, ...]
    """Where the genuine speech comes from, its own or that its spoofs were made of: corpora that share a source leak
    into each other."""
    audio: tuple[Pattern, ...]
    """What the paths of audio files look like; the first that matches counts."""
    constants: Mapping[str, str] = field(default_factory=dict)
    parse: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    """Further patterns by the field they take apart."""
    translate: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By field: what each spelling means (`a|b*` lists globs); `*` keeps the spelling, an empty text is None."""
    protocol: Protocol | None = None
    expected_hours: ExpectedHours = field(default_factory=ExpectedHours)
    revision: str | None = None
    ignore: tuple[str, ...] = ()
    """Globs over paths that belong to the published package but not to this corpus."""
    known_bad: Mapping[str, str] = field(default_factory=dict)
    """Globs over paths that must not be used, each with its reason."""
    chunks: Chunks | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The fields on which rows of the protocol and files are joined."""
        if self.protocol is None:
            return ()
        return tuple(name for name in self.protocol.fields if name in self.audio[0].fields)

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The artifact families that can occur."""
        constant = self.constants.get("artifact")
        families = (constant,) if constant else self.translate.get("artifact", {}).values()
        return tuple(family for family in ARTIFACTS if family in families)


def load_manifests(folder: Path = MANIFESTS) -> dict[str, Manifest]:
    """Every manifest below a folder (`train/*.toml`, `evaluation/*.toml`) by its name, in alphabetical order.

    Raises:
        InputError: one of them is malformed, or two have one name.
    """
    manifests: dict[str, Manifest] = {}
    paths = [path for role in ROLES for path in folder.glob(f"{role}/*.toml")]
    for path in sorted(paths, key=lambda path: path.stem):
        manifest = load_manifest(path)
        if manifest.name in manifests:
            raise InputError(f"{path}: there is already a manifest named {manifest.name!r}")
        if manifest.role != path.parent.name:
            raise InputError(f"{path}: role = {manifest.role!r}, but it lies in {path.parent.name}/")
        manifests[manifest.name] = manifest
    return manifests


def choose_manifests(names: Iterable[str], folder: Path = MANIFESTS) -> dict[str, Manifest]:
    """The named manifests in the given order; all of them if no name is given.

    Raises:
        InputError: there is no manifest of a name.
    """
    known = load_manifests(folder)
    chosen = {}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise InputError(f"unknown corpus {name!r}; {hint}")
        chosen[name] = known[name]
    return chosen or known


def manifest_digest(manifest: Manifest) -> str:
    """16 hex digits that change when anything in a manifest does."""
    return hashlib.sha256(repr(manifest).encode()).hexdigest()[:16]


def load_manifest(path: Path) -> Manifest:
    """Read one manifest strictly: a key that is unknown, missing or of a wrong type is an error.

    Raises:
        InputError: it is malformed; the message names the file and the key.
    """
    table = load_toml(path)
    chunks = table.table("chunks")
    manifest = Manifest(
        name=table.text("name"),
        folder=table.text("folder"),
        role=table.choice("role", ROLES),
        id=table.parsed("id", Template),
        homepage=table.text("homepage"),
        licence=table.text("licence"),
        non_commercial=table.flag("non_commercial"),
        languages=table.texts("languages"),
        sources=table.texts("sources"),
        audio=table.many("audio", Pattern),
        constants=table.mapping("constants"),
        parse=_parse_table(table.table("parse")),
        translate=_translate_table(table.table("translate")),
        protocol=_protocol(table.table("protocol")),
        expected_hours=_expected_hours(table.table("expected_hours")),
        revision=table.optional_text("revision"),
        ignore=table.texts("ignore", ()),
        known_bad=table.mapping("known_bad"),
        chunks=Chunks(chunks.number("seconds"), chunks.numbers("choices")) if chunks else None,
    )
    if chunks:
        chunks.finish()
    table.finish()
    _check(manifest, path)
    return manifest


def _parse_table(table: TomlTable | None) -> dict[str, tuple[Pattern, ...]]:
    return {key: table.many(key, Pattern) for key in list(table.values)} if table else {}


def _translate_table(table: TomlTable | None) -> dict[str, dict[str, str]]:
    return {key: table.mapping(key) for key in list(table.values)} if table else {}


def _expected_hours(table: TomlTable | None) -> ExpectedHours:
    if table is None:
        return ExpectedHours()
    hours = {key: table.number(key) for key in ("bonafide", "spoof", "total") if key in table.values}
    table.finish()
    if "bonafide" in hours and "spoof" in hours:
        hours.setdefault("total", hours["bonafide"] + hours["spoof"])
    return ExpectedHours(**hours)


def _line(text: str) -> Pattern:
    """In a table a gap may hold anything: a path with slashes is judged as one, not taken for another form."""
    return Pattern(re.sub(r"\{(\w+)\}", r"{\1**}", text))


def _column(text: str) -> Pattern | None:
    """A column holds a field (`speaker`), text with fields in it (`{utterance}.wav`), or nothing of use."""
    return _line(text if "{" in text else f"{{{text}}}") if text else None


def _protocol(table: TomlTable | None) -> Protocol | None:
    if table is None:
        return None
    by_name = table.table("columns") if isinstance(table.values.get("columns"), dict) else None
    named = {key: by_name.parsed(key, _column) for key in list(by_name.values)} if by_name else {}
    protocol = Protocol(
        files=table.many("files", Pattern),
        separator=table.choice("separator", tuple(SEPARATORS)) if "separator" in table.values else "space",
        columns=tuple(_column(text) for text in table.texts("columns", ())),
        named_columns={name: column for name, column in named.items() if column},
        lines=table.many("lines", _line) if "lines" in table.values else (),
    )
    table.finish()
    if sum(map(bool, (protocol.columns, protocol.named_columns, protocol.lines))) != 1:
        raise table.error(
            "columns", "give a list of columns, a table of columns, or lines; exactly one of them"
        )
    return protocol


def _check(manifest: Manifest, path: Path) -> None:
    """What no single key can show: names that agree, fields that exist and come from one place only."""

    def wrong(key: str, message: str) -> InputError:
        return InputError(f"{path}: {key}: {message}")

    if manifest.name != path.stem:
        raise wrong("name", f"{manifest.name!r}, but the file is {path.name}")
    if (manifest.licence == UNKNOWN) != (manifest.non_commercial is None):
        raise wrong("non_commercial", "say it for a licence that is known, and only then")
    given = _given_fields(manifest, wrong)
    for name in manifest.id.fields:
        if name not in given:
            raise wrong("id", f"no field {name!r}; there are {', '.join(sorted(given))}")
    if "label" not in given:
        raise wrong("audio", "nothing gives the label")
    for name in manifest.translate:
        if name not in given:
            raise wrong(f"translate.{name}", "there is no such field")
    meanings = {"label": LABELS, "artifact": ARTIFACTS, "split": (*SPLITS, "")}
    for name, known in meanings.items():
        values = [*manifest.translate.get(name, {}).values(), manifest.constants.get(name, known[0])]
        for value in values:
            if value not in known:
                raise wrong(name, f"{value!r} is none of {', '.join(filter(None, known))}")


def _given_fields(manifest: Manifest, wrong: Callable[[str, str], InputError]) -> set[str]:
    """Every field of the corpus, after checking that no two places give the same one."""
    protocol = manifest.protocol
    captured = {name for pattern in manifest.audio for name in pattern.fields}
    given = set(manifest.constants)
    sources = [("audio", captured), ("protocol", set(protocol.fields) - captured if protocol else set[str]())]
    for source, patterns in manifest.parse.items():
        sources.append((f"parse.{source}", {name for pattern in patterns for name in pattern.fields}))
    for place, names in sources:
        field_name = place.removeprefix("parse.")
        if place.startswith("parse.") and field_name not in given:
            raise wrong(place, "no field of this name comes before it")
        twice = given & names
        if twice:
            raise wrong(place, f"{', '.join(sorted(twice))} given twice")
        given |= names
    if protocol:
        shared = set(protocol.fields) & captured
        if not shared:
            raise wrong(
                "protocol", "shares no field with the audio paths, so rows and files cannot be joined"
            )
        for pattern in manifest.audio:
            if not shared <= set(pattern.fields):
                raise wrong(
                    "audio", f"{pattern.text!r} lacks {', '.join(sorted(shared - set(pattern.fields)))}"
                )
        for pattern in protocol.files:
            if set(pattern.fields) != set(protocol.files[0].fields):
                raise wrong("protocol.files", "must all have the same fields")
    return given
