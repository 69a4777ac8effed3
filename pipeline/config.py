"""TOML and command line become one frozen dataclass.

The only file that imports jsonargparse. A job is a function of one argument, its config; `run` finds the
class in the annotation of that argument, so a job needs no parser code.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import os
import re
import select
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    DefaultHelpFormatter,
    set_parsing_settings,
)
from jsonargparse.typing import register_type

from pipeline.errors import InputError

Config = TypeVar("Config")


class Names(tuple[str, ...]):
    """Names, separated by commas on the command line, a list in TOML."""

    __slots__ = ()


class Pairs(tuple[tuple[str, str], ...]):
    """`name=value` pairs, separated by commas on the command line, a list in TOML."""

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [name for name, _ in self]

    def get(self, name: str) -> str | None:
        """The value of a name; the last one counts."""
        return dict(self).get(name)


class Bounds(tuple[int, int]):
    """At least and at most: one number, or two with a comma between them; a number or a list in TOML."""

    __slots__ = ()


def _names(value: object) -> Names:
    if isinstance(value, str):
        return Names(name.strip() for name in value.split(",") if name.strip())
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return Names(value)
    raise ValueError("expected names separated by commas")


def _pairs(value: object) -> Pairs:
    if isinstance(value, Pairs):
        return value
    pairs = []
    for item in _names(value):
        name, separator, text = item.partition("=")
        if not separator or not name or not text:
            raise ValueError(f"expected name=value, got {item!r}")
        pairs.append((name, text))
    return Pairs(pairs)


def _bounds(value: object) -> Bounds:
    words = value.split(",") if isinstance(value, str) else value
    words = list(words) if isinstance(words, (list, tuple)) else [words]
    if len(words) not in (1, 2) or not all(re.fullmatch(r"\s*-?\d+\s*", str(word)) for word in words):
        raise ValueError("expected a whole number, or two with a comma between them")
    return Bounds((int(str(words[0])), int(str(words[-1]))))


def _spelled(pairs: Pairs) -> list[str]:
    return [f"{name}={text}" for name, text in pairs]


set_parsing_settings(docstring_parse_attribute_docstrings=True)
register_type(Names, serializer=list, deserializer=_names)
register_type(Pairs, serializer=_spelled, deserializer=_pairs)
register_type(Bounds, serializer=list, deserializer=_bounds)


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the command lines in a job's docstring as they were written."""


class _Parser(ArgumentParser):
    """A jsonargparse parser that shows flags the way they are typed: `--num-workers`."""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", super().format_help(formatter))
        return re.sub(r"--[a-z][a-z0-9_.]*", lambda flag: flag[0].replace("_", "-"), text)


def run(main: Callable[[Config], None], argv: Sequence[str] | None = None) -> int:
    """Parse the command line for `main` and call it; returns the exit status.

    Args:
        main: a function of one argument, annotated with a frozen dataclass.
        argv: the words after the command; those of the process by default.
    """
    module = inspect.getmodule(main)
    assert module is not None and module.__file__ is not None
    command = Path(module.__file__).stem  # __name__ would be __main__ under python -m
    try:
        config = parse(
            config_class(main),
            list(sys.argv[1:] if argv is None else argv),
            command=f"bonafide {command}",
            description=inspect.getdoc(module) or "",
        )
        main(config)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest of the output goes
        return 141
    except InputError as error:
        print(f"bonafide {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bonafide {command}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _is_unread() -> bool:
    """Whether nobody reads what this process prints any more, as when `head` has enough."""
    ends = select.poll()
    ends.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in ends.poll(0))


def config_class(main: Callable[[Config], None]) -> type[Config]:
    """The dataclass that the first argument of a job's `main` is annotated with."""
    name = next(iter(inspect.signature(main).parameters))
    found = typing.get_type_hints(main)[name]
    assert dataclasses.is_dataclass(found), f"{main} must take one dataclass"
    return typing.cast("type[Config]", found)


def parse(config: type[Config], argv: Sequence[str], *, command: str, description: str = "") -> Config:
    """Read flags, and TOML files through `--config`, into `config`; later words win.

    A first word without dashes is the first field; a boolean flag may stand alone; `--num-workers` and
    `--num_workers` are one flag.

    Raises:
        InputError: a wrong flag, a wrong value, a required field left out, an unreadable TOML file.
    """
    parser = _Parser(
        prog=command,
        description=description,
        parser_mode="toml",
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="TOML file with values for the flags below."
    )
    parser.add_class_arguments(config, as_group=False)
    flags = sorted({option for action in parser._actions for option in action.option_strings})
    try:
        words = _normalised(argv, config)
        for flag, path in itertools.pairwise(words):
            if flag == "--config":
                load_toml(path)  # an unreadable file is named here, in our words
        return _filled(config, vars(parser.parse_args(words)))
    except ArgumentError as error:
        raise InputError(_one_line(str(error), flags, command)) from error


def _filled(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A config of parsed values; those of a nested config come as a mapping of their own."""
    hints = typing.get_type_hints(config)
    filled: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(config)):  # type: ignore[arg-type]
        hint, value = hints[name], values[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            filled[name] = _filled(hint, vars(value))
        else:  # the parser passes a tuple of ours on as a plain one
            filled[name] = hint(value) if hint in (Names, Pairs, Bounds) else value
    return config(**filled)


def _normalised(argv: Sequence[str], config: type[object]) -> list[str]:
    """Flags in the spelling of the fields, with the words that may be left out put back."""
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    booleans = {f"--{name}" for name in _boolean_fields(config)}
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = [f"--{fields[0].name}", *words]
    normalised: list[str] = []
    for position, word in enumerate(words):
        flag, separator, value = word.partition("=")
        if not flag.startswith("--"):
            normalised.append(word)
            continue
        flag = flag.replace("-", "_").replace("__", "--", 1)
        normalised.append(flag + separator + value)
        following = words[position + 1] if position + 1 < len(words) else "--"
        if flag in booleans and not separator and following.startswith("--"):
            normalised.append("true")
    return normalised


def _boolean_fields(config: type[object], prefix: str = "") -> list[str]:
    hints = typing.get_type_hints(config)
    names: list[str] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        hint = hints[field.name]
        if hint is bool:
            names.append(prefix + field.name)
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            names += _boolean_fields(hint, f"{prefix}{field.name}.")
    return names


def _one_line(message: str, flags: Sequence[str], command: str) -> str:
    message = " ".join(message.split())
    message = re.sub(r"Parser key \"([^\"]+)\":", lambda key: f"--{key[1].replace('_', '-')}:", message)
    unknown = re.search(r"unrecognized arguments: (--[\w.]+)", message, flags=re.IGNORECASE)
    if unknown:
        near = difflib.get_close_matches(unknown[1], flags, n=1, cutoff=0.7)
        hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
        return f"unknown flag {unknown[1].replace('_', '-')}{hint} (all flags: {command} --help)"
    required = re.search(r"following arguments are required: (.+)$", message)
    if required:
        names = ", ".join(f"--{name.strip().replace('_', '-')}" for name in required[1].split(","))
        return f"missing {names} (all flags: {command} --help)"
    return f"{message} (all flags: {command} --help)"


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: the file is missing or is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def to_dict(config: object) -> dict[str, Any]:
    """A config as plain values that JSON and TOML can hold."""
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: object) -> object:
    if isinstance(value, Pairs):
        return _spelled(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def to_toml(config: object) -> str:
    """A config as TOML that `--config` reads back; fields that are None are left out."""
    return tomli_w.dumps(_without_none(to_dict(config)))


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }


def digest(config: object) -> str:
    """The first 12 hex digits of the SHA-256 of a config: equal configs, equal digests."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
