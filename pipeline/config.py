"""Command-line flags and TOML files become one frozen dataclass.

A command is a function of one argument, its config. `run` finds the config class in the annotation of that argument,
so a command needs no parser code: its fields are the flags, and the docstrings under them are the help.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import json
import sys
import textwrap
import tomllib
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tomli_w

from pipeline.errors import InputError, did_you_mean
from pipeline.signals import StopSignals
from pipeline.streams import run_with_safe_streams

Config = TypeVar("Config")

OUTPUTS = ("store", "out", "html")
"""Fields that name what a command writes."""

JOB_FOLDER = "/runtime_resources/working_dir_files/"
"""Part of the path of the folder to which Ray copies `ray job submit --working-dir`, the current folder of a job."""


class Names(tuple[str, ...]):
    """Names: separated by commas on the command line, a list in TOML."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Names:
        """Read names separated by commas, or a JSON list."""
        items = json.loads(text) if text.startswith("[") else text.split(",")
        return cls(name for name in (str(item).strip() for item in items) if name)


class Pairs(tuple[tuple[str, str], ...]):
    """`name=value` pairs: separated by commas on the command line, a list of strings in TOML."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Pairs:
        """Read pairs separated by commas, or a JSON list of them; raises ValueError for anything else."""
        pairs = [item.partition("=") for item in Names.parse(text)]
        if not all(name and value for name, _, value in pairs):
            raise ValueError
        return cls((name, value) for name, _, value in pairs)

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [name for name, _ in self]

    def get(self, name: str) -> str | None:
        """The value of a name, or None; the last of several counts."""
        return dict(self).get(name)


class Bounds(tuple[int, int]):
    """Minimum and maximum: one integer for both, or two as `4,16` on the command line and `[4, 16]` in TOML."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Bounds:
        """Read one or two integers; raises ValueError for anything else."""
        numbers = [int(item) for item in Names.parse(text)]
        minimum, maximum = numbers * 2 if len(numbers) == 1 else numbers
        return cls((minimum, maximum))


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
    boolean flag may stand alone, and `--num_workers` is the same as `--num-workers`.

    Args:
        config: a frozen dataclass; fields may be dataclasses themselves.
        argv: the arguments after the command.
        command: what the user typed, for messages: `bonafide train`.
        description: the text above the flags in `--help`.

    Raises:
        InputError: a flag or key is unknown, a value is wrong, a required field is missing, or a file is not TOML.
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
    hints, help_texts = typing.get_type_hints(config), _attribute_docstrings(config)
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


def _attribute_docstrings(config: type) -> dict[str, str]:
    """The string that follows each field in the source of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors."""

    source = ""
    """`FILE: ` while the arguments come from a TOML file."""

    def read(self, arguments: Iterable[str]) -> dict[str, Any]:
        """The values that the arguments give, by field name."""
        given, extra = self.parse_known_args([_with_dashes(argument) for argument in arguments])
        if extra:
            flag = extra[0].partition("=")[0]
            flags = [known for known in self._option_string_actions if known.startswith("--")]
            self.error(f"unknown argument {flag}{did_you_mean(flag, flags)}")
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
    parser.add_argument("--config", metavar="FILE", action="append", help=help_text)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag, field in fields.items():
        section, _, name = field.name.rpartition(".")
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "flags", field.section or None)
        if typing.get_origin(field.hint) is typing.Literal:
            options: dict[str, Any] = {"choices": typing.get_args(field.hint)}
        else:
            options = {"type": _reader(field.hint), "metavar": name.upper()}
        if field.hint is bool:
            options |= {"nargs": "?", "const": True, "metavar": "true|false"}
        help_text = f"{' '.join(field.help.split())} {_default_note(field.default)}".strip()
        groups[section].add_argument(flag, dest=field.name, help=help_text.replace("%", "%%"), **options)
    return parser


def _default_note(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "(required)"
    if default in ("", (), {}):
        return ""  # the help text says what an empty value means
    return f"(default: {','.join(map(str, default)) if isinstance(default, tuple) else default})"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _with_dashes(argument: str) -> str:
    flag, separator, value = argument.partition("=")
    return f"{flag.replace('_', '-')}{separator}{value}" if flag.startswith("--") else argument


def _as_arguments(table: Mapping[str, Any], flags: Container[str], prefix: str = "") -> Iterator[str]:
    """The items of a TOML table as flags with values; lists, and tables that are one value, become JSON."""
    for key, value in table.items():
        flag = _flag(prefix + key)
        if isinstance(value, dict) and flag not in flags:
            yield from _as_arguments(value, flags, f"{prefix}{key}.")
        else:
            yield f"{flag}={value if isinstance(value, str) else json.dumps(value, default=str)}"


def _numbers(text: str) -> dict[str, float]:
    items = json.loads(text) if text.startswith("{") else dict(Pairs.parse(text))
    return {name: float(number) for name, number in items.items()}


_READERS: dict[Any, tuple[Callable[[str], object], str]] = {
    str: (str, "text"),
    bool: (lambda text: bool(("false", "true").index(text)), "true or false"),
    int: (int, "an integer"),
    float: (lambda text: float(text.replace(".inf", "inf")), "a number"),
    Names: (Names.parse, "names separated by commas"),
    Pairs: (Pairs.parse, "name=value pairs separated by commas"),
    Bounds: (Bounds.parse, "an integer, or two separated by a comma"),
    dict[str, float]: (_numbers, "name=number pairs separated by commas"),
}
"""How to read a value of each type, and what to call one in a message."""


def _reader(hint: Any) -> Callable[[str], object]:
    """A function that reads a value of this type."""
    convert, expected = _READERS[hint]

    def read(text: str) -> object:
        try:
            return convert(text)
        except (ValueError, TypeError):  # the latter for a list or a table in a table of numbers
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None

    return read


def _build(config: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A config from the values of all its fields."""
    arguments = {}
    for name, hint in typing.get_type_hints(config).items():
        is_nested = dataclasses.is_dataclass(hint)
        arguments[name] = _build(hint, values, f"{prefix}{name}.") if is_nested else values[prefix + name]
    return config(**arguments)


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
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Pairs):
        return [f"{name}={text}" for name, text in value]
    if isinstance(value, tuple):
        return list(value)
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def to_toml(config: object) -> str:
    """A config as TOML that `--config` reads back."""
    return tomli_w.dumps(to_dict(config))
