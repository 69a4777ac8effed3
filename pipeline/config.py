"""Command-line flags and TOML files become one frozen dataclass.

A command is a function of one argument, its config. `run` finds the config class in the annotation of that argument,
so a command needs no parser code: its fields are the flags, and the docstrings under them are the help.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import inspect
import json
import re
import sys
import tomllib
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tomli_w

from pipeline.errors import InputError, did_you_mean
from pipeline.fields import READERS, LocalPath, Pairs, Range, Reader, marks_of, types_of
from pipeline.settings import attribute_docstrings, key_of
from pipeline.signals import StopSignals
from pipeline.streams import run_with_safe_streams

Config = TypeVar("Config")

GC_THRESHOLDS = (100_000, 20, 100)
"""Thresholds of the garbage collector during a command. With those of Python, importing torch, Ray and MLflow takes a
second longer: it visits a million objects, which all stay, again and again."""

OUTPUTS = ("store", "out", "html")
"""Fields that name what a command writes."""

JOB_FOLDER = "/runtime_resources/working_dir_files/"
"""Part of the path of the folder to which Ray copies `ray job submit --working-dir`, the current folder of a job."""


def run(main: Callable[[Config], int | None], argv: Sequence[str] | None = None) -> int:
    """Parse the command line of a command and call its `main`.

    Args:
        main: a function of one argument, annotated with a frozen dataclass; may return an exit status.
        argv: the arguments after the command; those of the process by default.

    Returns:
        The exit status: what `main` returned or 0, 2 after a user error, 141 if the reader of standard
        output has closed it.

    Raises:
        SystemExit: the help was printed, or a signal was received; it carries the exit status.
    """
    module = inspect.getmodule(main)
    assert module is not None and module.__file__ is not None
    command = f"bonafide {Path(module.__file__).stem}"  # __name__ would be __main__ under python -m
    description = inspect.getdoc(module) or ""

    def work() -> int:
        try:
            gc.set_threshold(*GC_THRESHOLDS)
            with StopSignals(command):
                arguments = sys.argv[1:] if argv is None else argv
                config = parse(config_class(main), arguments, command=command, description=description)
                check_outputs(config)
                return main(config) or 0
        except InputError as error:
            print(f"{command}: {error}", file=sys.stderr)
            return 2

    return run_with_safe_streams(command, work)


def check_outputs(config: object) -> None:
    """Refuse to write into the folder to which Ray copies `--working-dir` for a job: Ray deletes it.

    Raises:
        InputError: an output of the command is there, because its path is relative.
    """
    for name in OUTPUTS:
        location = getattr(config, name, "")
        path = str(Path(location).absolute())
        if location and "://" not in location and JOB_FOLDER in path:
            raise InputError(
                f"{_flag(name)} {path}: Ray deletes this folder after the job; give an s3:// URI, or the absolute path "
                "of a folder that all machines share"
            )


def config_class(main: Callable[[Config], int | None]) -> type[Config]:
    """The dataclass that annotates the argument of a command's `main`."""
    name = next(iter(inspect.signature(main).parameters))
    return typing.cast("type[Config]", typing.get_type_hints(main)[name])


def parse(config: type[Config], argv: Sequence[str], *, command: str, description: str = "") -> Config:
    """Read flags, and TOML files given with `--config`, into a config.

    Flags override files, and later files override earlier ones. A first argument without dashes is the first field, a
    flag may stand alone if its type says so, and `--num_workers` is the same as `--num-workers`. A relative path in a
    file starts from the current folder, as it does in a flag.

    Args:
        config: a frozen dataclass; fields may be dataclasses themselves.
        argv: the arguments after the command.
        command: what the user typed, for messages: `bonafide train`.
        description: the text above the flags in `--help`.

    Raises:
        InputError: a flag or key is unknown or repeated, a value is wrong, a required field is missing, or a file is
            not TOML.
    """
    fields = {_flag(field.name): field for field in _fields(config)}
    parser = _parser(fields, command, description)
    first = [next(iter(fields))] if argv and not argv[0].startswith("-") else []
    given = parser.read([*first, *argv])
    values = {field.name: field.default for field in fields.values()}
    for path in given.pop("config", ()):
        parser.source = f"{path}: "
        in_file = parser.read(_as_arguments(load_toml(path), fields))
        if "config" in in_file:
            parser.error("a file cannot name another one with config")
        values |= in_file
    values |= given
    missing = [flag for flag, field in fields.items() if values[field.name] is dataclasses.MISSING]
    if missing:
        raise InputError(f"missing {', '.join(missing)} (all flags: {command} --help)")
    return typing.cast("Config", _build(config, values))


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    """Dotted name, from the outermost config: `batch.max_seconds`."""
    hint: Any
    default: Any
    """`dataclasses.MISSING` if the field is required."""
    help: str
    section: str
    """First line of the docstring of the nested config that holds the field."""


def _fields(config: Any, prefix: str = "", instance: object = None) -> Iterator[_Field]:
    """Every field of a config, depth first; the defaults of a nested config are those of `instance`."""
    hints, help_texts = types_of(config), attribute_docstrings(config)
    section = (inspect.getdoc(config) or "").partition("\n")[0] if prefix else ""
    for field in dataclasses.fields(config):
        name, hint, default = prefix + field.name, hints[field.name], field.default
        if instance is not None:
            default = getattr(instance, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{name}.", default)
        else:
            yield _Field(name, hint, default, help_texts.get(field.name, ""), section)


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors."""

    source = ""
    """`FILE: ` while the arguments come from a TOML file."""

    def read(self, arguments: Iterable[str]) -> dict[str, Any]:
        """The values that the arguments give, by field name."""
        words = [_with_dashes(argument) for argument in arguments]
        given, extra = self.parse_known_args(words)
        if extra:
            flag = extra[0].partition("=")[0]
            flags = [known for known in self._option_string_actions if known.startswith("--")]
            self.error(f"unknown argument {flag}{did_you_mean(flag, flags)}")
        counts = Counter(word.partition("=")[0] for word in words if word.startswith("--"))
        for flag, count in counts.items():
            if count > 1 and flag != "--config":
                self.error(f"{flag} is given twice; give it once, a list with commas between its items")
        return vars(given)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise InputError(f"{self.source}{message} (all flags: {self.prog} --help)")


def _parser(fields: Mapping[str, _Field], command: str, description: str) -> _Parser:
    parser = _Parser(
        prog=command,
        usage=f"{command} [{next(iter(fields.values())).name.upper()}] [FLAGS]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    help_text = "TOML file with values for the flags below; may be given several times, later files win"
    parser.add_argument("--config", metavar="FILE", action="append", type=_reader(LocalPath), help=help_text)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag, field in fields.items():
        section, _, name = field.name.rpartition(".")
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "flags", field.section or None)
        if typing.get_origin(field.hint) is typing.Literal:
            options: dict[str, Any] = {"choices": typing.get_args(field.hint)}
        else:
            options = {"type": _reader(field.hint), "metavar": name.upper()}
            reader = _reader_of(field.hint)
            if field.hint is bool:
                options["metavar"] = "true|false"
            if reader.alone is not None:
                options |= {"nargs": "?", "const": reader.read(reader.alone)}
        help_text = f"{' '.join(field.help.split())} {_note(field)}".strip()
        groups[section].add_argument(flag, dest=field.name, help=help_text.replace("%", "%%"), **options)
    return parser


def _note(field: _Field) -> str:
    """The default of a field and the numbers that it accepts, as far as the help text does not say them."""
    default = field.default
    notes = [str(mark) for mark in marks_of(field.hint) if isinstance(mark, Range)]
    if default is dataclasses.MISSING:
        notes.insert(0, "required")
    elif default not in ("", (), {}):
        notes.insert(0, f"default: {','.join(map(str, default)) if isinstance(default, tuple) else default}")
    return f"({'; '.join(notes)})" if notes else ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _with_dashes(argument: str) -> str:
    flag, separator, value = argument.partition("=")
    return f"{flag.replace('_', '-')}{separator}{value}" if flag.startswith("--") else argument


def _as_arguments(table: Mapping[str, Any], fields: Mapping[str, _Field], prefix: str = "") -> Iterator[str]:
    """The items of a TOML table as flags with values; lists, and tables that are one value, become JSON.

    An empty value is left out where the default is empty, too: `to_toml` writes every field.
    """
    for key, value in table.items():
        flag = _flag(prefix + key)
        if isinstance(value, dict) and flag not in fields:
            yield from _as_arguments(value, fields, f"{prefix}{key}.")
        elif value not in ("", [], {}) or flag not in fields or fields[flag].default not in ("", (), {}):
            yield f"{flag}={value if isinstance(value, str) else json.dumps(value, default=str)}"


def _reader_of(hint: Any) -> Reader:
    marks = marks_of(hint)
    base = typing.get_args(hint)[0] if marks else hint
    return next((mark for mark in marks if isinstance(mark, Reader)), None) or READERS[base]


def _reader(hint: Any) -> Callable[[str], object]:
    """A function that reads a value of this type."""
    reader = _reader_of(hint)
    ranges = [mark for mark in marks_of(hint) if isinstance(mark, Range)]
    expected = " ".join([reader.expected, *map(str, ranges)])

    def read(text: str) -> object:
        try:
            text.encode()  # a value becomes part of files and names
            value = reader.read(text)
            if all(each.accepts(value) for each in ranges):
                return value
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except (ValueError, TypeError):  # the latter for a list or a table in a table of numbers
            pass
        raise argparse.ArgumentTypeError(f"expected {expected.rstrip(',')}, got {text!r}")

    return read


def _build(config: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A config from the values of all its fields."""
    arguments = {}
    for name, hint in types_of(config).items():
        is_nested = dataclasses.is_dataclass(hint)
        arguments[name] = _build(hint, values, f"{prefix}{name}.") if is_nested else values[prefix + name]
    try:
        return config(**arguments)
    except InputError as error:  # a nested config does not know its own name
        raise InputError(re.sub(r"(?<!\S)--(?=[a-z])", _flag(prefix), str(error))) from error


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain values that JSON and TOML can hold."""
    return {key_of(field.name): _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Pairs):
        return [f"{name}={text}" for name, text in value]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def to_toml(config: object) -> str:
    """A config as TOML that `--config` reads back."""
    return tomli_w.dumps(to_dict(config))
