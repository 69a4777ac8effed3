"""Every flag of every command refuses what cannot work in one line that names it, before the command begins."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.__main__ import commands, run_command
from pipeline.config import config_class, parse
from pipeline.errors import InputError
from pipeline.fields import READERS, Bounds, Names, Pairs, Range, Reader, marks_of

REQUIRED = {
    "ingest": ["--root=data", "--store=store"],
    "train": ["--store=store", "--out=out"],
    "score": ["--checkpoint=weights", "--audio=calls", "--out=out"],
    "evaluate": ["--scores=scores", "--out=out"],
    "calibrate": ["--scores=scores", "--out=calibration.json"],
    "drift": ["--fit=scores", "--out=reference.parquet"],
    "trace": ["--gallery=old", "--new=scores", "--out=out"],
    "export": ["--scores=scores", "--format=csv", "--out=out"],
    "verify": ["--store=store"],
    "gc": ["--store=store"],
}
"""Flags without which a command cannot be read."""

NUMBERS = (int, float, Bounds, dict[str, float])

WRONG = ("-1", "nan", "inf", "-inf", "1e300", "-1e-9", "1" + "0" * 30)

ACCEPTED = {
    ("train", "batch.crop_max_s", "inf"),
    ("train", "training.optimiser.clip_norm", "inf"),
    ("calibrate", "threshold", "inf"),
    ("calibrate", "threshold", "-1"),
    ("calibrate", "threshold", "-1e-9"),
    *(
        ("train", f"training.loss.{margin}", value)
        for margin in ("bonafide_margin", "spoof_margin")
        for value in ("-1", "-1e-9")
    ),
}
"""Wrong for most fields, but not for these."""


def fields(config: type, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted name and type of every field of a config."""
    for name, hint in typing.get_type_hints(config, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            yield from fields(typing.cast("type", hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def config_of(command: str) -> type:
    return config_class(importlib.import_module(f"jobs.{command}").main)


def base_of(hint: object) -> object:
    return typing.get_args(hint)[0] if marks_of(hint) else hint


ALL = [(command, name, hint) for command in commands() for name, hint in fields(config_of(command))]
NUMERIC = [(command, name) for command, name, hint in ALL if base_of(hint) in NUMBERS]


def refusal(command: str, name: str, text: str) -> str:
    """The message about a value of a field; empty if it is accepted."""
    argv = [f"--{name.replace('_', '-')}={text}", *REQUIRED.get(command, [])]
    try:
        parse(config_of(command), argv, command=f"bonafide {command}")
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("command", "name"), NUMERIC)
def test_a_number_that_cannot_work_is_refused_with_its_flag(command: str, name: str):
    is_weight = name.endswith("weights")
    for text in WRONG:
        message = refusal(command, name, f"spoof={text}" if is_weight else text)
        if (command, name, text) in ACCEPTED:
            assert not message.startswith(f"--{name.replace('_', '-')}: expected")
        else:
            assert message.startswith(f"--{name.replace('_', '-')}: expected "), text
            assert "\n" not in message


def test_every_number_has_a_range():
    without = [
        f"{command} {name}"
        for command, name, hint in ALL
        if base_of(hint) in NUMBERS and not any(isinstance(mark, Range) for mark in marks_of(hint))
    ]
    assert without == []


def test_every_default_is_in_its_range():
    for command in commands():
        config: object = parse(config_of(command), REQUIRED.get(command, []), command="bonafide")
        for name, hint in fields(config_of(command)):
            value: object = config
            for part in name.split("."):
                value = getattr(value, part)
            assert all(mark.accepts(value) for mark in marks_of(hint) if isinstance(mark, Range)), name


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, name, hint in ALL if base_of(hint) in (Names, Pairs)]
)
@pytest.mark.parametrize("text", ["", ",", "a,,b", "[]", "a,a", "a=1,a=1"])
def test_an_empty_list_or_a_repeated_item_is_refused(command: str, name: str, text: str):
    assert refusal(command, name, text).startswith(f"--{name.replace('_', '-')}: ")


def test_only_texts_with_a_meaning_of_their_own_may_be_empty():
    may_be_empty = [
        f"{command} {name}"
        for command, name, hint in ALL
        if base_of(hint) is str and not refusal(command, name, "")
    ]
    assert may_be_empty == ["train register", "benchmark train.ranks_variant"]


def test_relative_locations_become_absolute_in_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    locations = {
        "ingest": "root store protocol",
        "train": "store out init",
        "score": "checkpoint out",
        "evaluate": "out scores",
        "calibrate": "scores detector",
        "drift": "fit out",
        "trace": "gallery new out protocol trials",
        "corpora": "root",
        "verify": "store",
        "gc": "store",
        "demo": "out",
    }
    for command, names in locations.items():
        for name in names.split():
            for text, path in (
                ("x/../y/./z/", f"{tmp_path}/y/z"),
                ("~/z", "/home/me/z"),
                ("/a//b", "/a/b"),
            ):
                flag = f"--{name}"
                required = [word for word in REQUIRED.get(command, []) if not word.startswith(f"{flag}=")]
                config: object = parse(config_of(command), [f"{flag}={text}", *required], command="bonafide")
                assert getattr(config, name) in (path, (path,)), (command, name)


def test_a_text_field_without_a_reader_names_no_location():
    """A new field for a file or folder must have a type that makes its value absolute."""
    plain = {
        f"{command} {name}" for command, name, hint in ALL if hint is str or hint is Names or hint is Pairs
    }
    assert plain == {
        "benchmark learning.evaluation",
        "benchmark learning.only",
        "calibrate experiment",
        "corpora corpora",
        "corpora snapshot",
        "drift experiment",
        "evaluate experiment",
        "evaluate layer",
        "ingest corpora",
        "ingest experiment",
        "ingest name",
        "score corpora",
        "score experiment",
        "score snapshot",
        "score system",
        "trace experiment",
        "trace gallery_splits",
        "trace hold_out",
        "trace new_splits",
        "train corpora",
        "train experiment",
        "train snapshot",
        "verify corpora",
        "verify snapshot",
    }


def test_a_flag_that_is_refused_ends_its_command_with_status_2(capsys: pytest.CaptureFixture[str]):
    for command, name in NUMERIC:
        flag = f"--{name.replace('_', '-')}"
        assert run_command(command, [f"{flag}=nan", *REQUIRED.get(command, [])]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"bonafide {command}: {flag}: expected ")
        assert line.endswith(f" (all flags: bonafide {command} --help)")


def test_every_type_of_a_field_can_be_read():
    for command, name, hint in ALL:
        is_choice = typing.get_origin(hint) is typing.Literal
        has_reader = any(isinstance(mark, Reader) for mark in marks_of(hint))
        assert is_choice or has_reader or base_of(hint) in READERS, f"{command} {name}"
