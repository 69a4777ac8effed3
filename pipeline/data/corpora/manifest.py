"""Manifests: one short TOML file per corpus, with its metadata and the rules for reading its files and tables.

A field is a constant, else read from the path, else from the protocol table. Then it is translated; a spelling
that is not listed is an error. `manifests/README.md` explains the format by examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.corpora.column_rules import parse_columns, parse_line, parse_separator
from pipeline.data.corpora.pattern import Pattern, Template
from pipeline.data.corpora.region_files import RegionFiles, parse_regions
from pipeline.data.corpora.toml import TomlTable, load_table
from pipeline.data.corpora.utterance import ARTIFACTS, KINDS, LABELS, SPLITS
from pipeline.errors import InputError, did_you_mean

MANIFESTS = Path(__file__).parents[3] / "manifests"

UTTERANCE_ROLES = ("train", "evaluation")
"""Roles of the corpora whose utterances train, validate and are scored."""

AUGMENTATION = "augmentation"
"""Role of the corpora whose recordings change training utterances, and are never utterances themselves."""

ROLES = (*UTTERANCE_ROLES, AUGMENTATION)

UNKNOWN = "unknown"
"""Value of `licence` if the licence is unknown; never guess one."""

ANY = "*"
"""In `languages`: any other language is allowed. As a translation: the spelling is kept."""


@dataclass(frozen=True)
class ExpectedHours:
    """Published hours of audio; None if they are not published."""

    bonafide: float | None = None
    spoof: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class Protocol:
    """The label table of a corpus, joined to its files on the fields that both have."""

    files: tuple[Pattern, ...]
    """Paths below the root; `{split=train|dev}` names two files and gives their rows the field `split`."""
    separator: str = "space"
    columns: tuple[Pattern | None, ...] = ()
    """Pattern of each column, by position, for a table without a header; None: unused."""
    named_columns: Mapping[str, Pattern] = field(default_factory=dict)
    """Patterns of columns by their name in the header; other columns are unused."""
    lines: tuple[Pattern, ...] = ()
    """Patterns of whole lines, instead of columns; a line whose pattern captures nothing is skipped."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row, in a fixed order."""
        columns = [column for column in self.columns if column] + list(self.named_columns.values())
        patterns = [*self.files[:1], *columns, *self.lines]
        return tuple(dict.fromkeys(name for pattern in patterns for name in pattern.fields))


@dataclass(frozen=True)
class Chunks:
    """Lengths of the consecutive pieces into which files are cut; the shorter last piece is kept."""

    seconds: float
    """Default length."""
    choices: tuple[float, ...]
    """Lengths in seconds that published results use."""


@dataclass(frozen=True)
class Manifest:
    """A published corpus: metadata, licence, and the rules for reading it."""

    name: str
    folder: str
    """Folder of the corpus below the data root; two corpora may share one."""
    role: str
    """One of `ROLES`."""
    id: Template
    """The published name of an utterance."""
    homepage: str
    licence: str
    """An SPDX identifier, `public-domain`, or `unknown`."""
    non_commercial: bool | None
    """Whether the licence forbids commercial use; None if the licence is unknown."""
    languages: tuple[str, ...]
    """Codes of all languages; `*` if there may be others; empty if unknown."""
    sources: tuple[str, ...]
    """Origins of the bona fide speech, including the speech from which spoofs were made. Do not train on one corpus
    and validate on another of the same source."""
    audio: tuple[Pattern, ...]
    """Patterns of the paths of audio files; the first match counts."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Fields with one value for the whole corpus."""
    parse: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    """For each field to split, the patterns that split it into further fields."""
    translate: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """For each field, the value of each spelling. A spelling `a|b*` lists globs; the value `*` keeps the spelling, and
    an empty value means unknown."""
    protocol: Protocol | None = None
    regions: RegionFiles | None = None
    expected_hours: ExpectedHours = field(default_factory=ExpectedHours)
    revision: str | None = None
    """The published version that the manifest describes, if there are several."""
    ignore: tuple[str, ...] = ()
    """Globs of paths that are in the published package but do not belong to this corpus."""
    known_bad: Mapping[str, str] = field(default_factory=dict)
    """Globs of paths that must not be used, each with its reason."""
    chunks: Chunks | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The fields on which protocol rows and files are joined."""
        if self.protocol is None:
            return ()
        return tuple(name for name in self.protocol.fields if name in self.audio[0].fields)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the role allows."""
        return KINDS if self.role == AUGMENTATION else LABELS

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The artifact families that can occur."""
        constant = self.constants.get("artifact")
        families = (constant,) if constant else self.translate.get("artifact", {}).values()
        return tuple(family for family in ARTIFACTS if family in families)


def load_manifests(folder: Path = MANIFESTS) -> dict[str, Manifest]:
    """Load all manifests below a folder (`train/*.toml` …, one folder for each role) by name, in alphabetical order.

    Raises:
        InputError: a manifest is malformed, or two have the same name.
    """
    manifests: dict[str, Manifest] = {}
    paths = [path for role in ROLES for path in folder.glob(f"{role}/*.toml")]
    for path in sorted(paths, key=lambda path: path.stem):
        manifest = load_manifest(path)
        if manifest.name in manifests:
            raise InputError(f"{path}: another manifest is already named {manifest.name!r}")
        if manifest.role != path.parent.name:
            raise InputError(f"{path}: role = {manifest.role!r}, but the file is in {path.parent.name}/")
        manifests[manifest.name] = manifest
    return manifests


def choose_manifests(names: Iterable[str], folder: Path = MANIFESTS) -> dict[str, Manifest]:
    """Load the named manifests, in the given order; all manifests if there are no names.

    Raises:
        InputError: there is no manifest of that name.
    """
    known = load_manifests(folder)
    chosen = {}
    for name in names:
        if name not in known:
            raise InputError(f"unknown corpus {name!r}{did_you_mean(name, known)}")
        chosen[name] = known[name]
    return chosen or known


def manifest_digest(manifest: Manifest) -> str:
    """Return 16 hex digits that change with any change of a manifest."""
    return hashlib.sha256(repr(manifest).encode()).hexdigest()[:16]


def load_manifest(path: Path) -> Manifest:
    """Load one manifest; an unknown or missing key, or a value of the wrong type, is an error.

    Raises:
        InputError: the manifest is malformed; the message names the file and the key.
    """
    table = load_table(path)
    chunks = table.table("chunks")
    manifest = Manifest(
        name=table.string("name"),
        folder=table.string("folder"),
        role=table.choice("role", ROLES),
        id=table.parsed("id", Template),
        homepage=table.string("homepage"),
        licence=table.string("licence"),
        non_commercial=table.boolean("non_commercial"),
        languages=table.strings("languages"),
        sources=table.strings("sources"),
        audio=table.one_or_more("audio", Pattern),
        constants=table.mapping("constants"),
        parse=_parse_table(table.table("parse")),
        translate=_translate_table(table.table("translate")),
        protocol=_protocol(table.table("protocol")),
        regions=parse_regions(table.table("regions")),
        expected_hours=_expected_hours(table.table("expected_hours")),
        revision=table.optional_string("revision"),
        ignore=table.strings("ignore", ()),
        known_bad=table.mapping("known_bad"),
        chunks=Chunks(chunks.number("seconds"), chunks.numbers("choices")) if chunks else None,
    )
    if chunks:
        chunks.finish()
    table.finish()
    _check(manifest, path)
    return manifest


def _parse_table(table: TomlTable | None) -> dict[str, tuple[Pattern, ...]]:
    return {key: table.one_or_more(key, Pattern) for key in list(table.values)} if table else {}


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


def _protocol(table: TomlTable | None) -> Protocol | None:
    if table is None:
        return None
    columns, named = parse_columns(table)
    protocol = Protocol(
        files=table.one_or_more("files", Pattern),
        separator=parse_separator(table),
        columns=columns,
        named_columns=named,
        lines=table.one_or_more("lines", parse_line) if "lines" in table.values else (),
    )
    table.finish()
    if sum(map(bool, (protocol.columns, protocol.named_columns, protocol.lines))) != 1:
        raise table.error("columns", "give exactly one of: a list of columns, a table of columns, lines")
    return protocol


def _check(manifest: Manifest, path: Path) -> None:
    """Check what involves several keys: matching names, and fields that are defined exactly once."""

    def error(key: str, message: str) -> InputError:
        return InputError(f"{path}: {key}: {message}")

    if manifest.name != path.stem:
        raise error("name", f"{manifest.name!r}, but the file is {path.name}")
    if (manifest.licence == UNKNOWN) != (manifest.non_commercial is None):
        raise error("non_commercial", "required for a known licence, and not allowed for an unknown one")
    defined = _defined_fields(manifest, error)
    for name in manifest.id.fields:
        if name not in defined:
            raise error("id", f"unknown field {name!r}; known: {', '.join(sorted(defined))}")
    if "label" not in defined:
        raise error("audio", "no path, protocol or constant defines the label")
    for name in manifest.translate:
        if name not in defined:
            raise error(f"translate.{name}", "unknown field")
    _check_regions(manifest, error)
    allowed_values = {"label": manifest.labels, "artifact": ARTIFACTS, "split": (*SPLITS, "")}
    for name, allowed in allowed_values.items():
        values = [*manifest.translate.get(name, {}).values(), manifest.constants.get(name, allowed[0])]
        for value in values:
            if value not in allowed:
                raise error(name, f"{value!r} is not one of {', '.join(filter(None, allowed))}")


def _check_regions(manifest: Manifest, error: Callable[[str, str], InputError]) -> None:
    """Check that regions can be joined to audio files, and that these are whole utterances."""
    if manifest.regions is None:
        return
    if manifest.chunks or (manifest.protocol and {"start", "end"} & set(manifest.protocol.fields)):
        raise error("regions", "utterances that are parts of files cannot have regions")
    for pattern in manifest.audio:
        lacking = [name for name in manifest.regions.key if name not in pattern.fields]
        if lacking or not manifest.regions.key:
            missing = ", ".join(lacking) or "a field of the regions"
            raise error("regions", f"audio {pattern.text!r} lacks {missing}, on which regions are joined")


def _defined_fields(manifest: Manifest, error: Callable[[str, str], InputError]) -> set[str]:
    """Return all fields of the corpus, after checking that no field is defined twice."""
    protocol = manifest.protocol
    captured = {name for pattern in manifest.audio for name in pattern.fields}
    defined = set(manifest.constants)
    fields_by_key = [
        ("audio", captured),
        ("protocol", set(protocol.fields) - captured if protocol else set[str]()),
    ]
    for parsed, patterns in manifest.parse.items():
        fields_by_key.append((f"parse.{parsed}", {name for pattern in patterns for name in pattern.fields}))
    for key, names in fields_by_key:
        if key.startswith("parse.") and key.removeprefix("parse.") not in defined:
            raise error(key, "no such field is defined before this line")
        repeated = defined & names
        if repeated:
            raise error(key, f"{', '.join(sorted(repeated))} is defined twice")
        defined |= names
    if protocol:
        shared = set(protocol.fields) & captured
        if not shared:
            raise error("protocol", "has no field in common with audio, so rows cannot be joined to files")
        for pattern in manifest.audio:
            if not shared <= set(pattern.fields):
                lacking = ", ".join(sorted(shared - set(pattern.fields)))
                raise error("audio", f"{pattern.text!r} lacks {lacking}, on which the protocol is joined")
        for pattern in protocol.files:
            if set(pattern.fields) != set(protocol.files[0].fields):
                raise error("protocol.files", "all patterns must have the same fields")
    return defined
