from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest

from jobs.__main__ import commands
from pipeline.config import config_class, load_toml, parse, run, to_toml
from pipeline.errors import InputError
from pipeline.fields import Bounds, Location, NamedLocations, Names, Pairs, Range, Share


@dataclass(frozen=True)
class Inner:
    """How batches are made."""

    max_seconds: Annotated[float, Range(0, 1e9, above=True, also=math.inf)] = 100.0
    """Padded seconds per batch."""
    shuffle: bool = True
    weights: Annotated[dict[str, float], Range(0, 255)] = field(default_factory=dict)
    share: Share = 1.0

    def __post_init__(self) -> None:
        if self.max_seconds < self.share:
            raise InputError(f"--max-seconds {self.max_seconds} is less than --share {self.share}")


@dataclass(frozen=True)
class Outer:
    store: Location
    """Folder of the store; it is 100 %
    local."""
    corpora: Names = Names()
    roots: NamedLocations = Pairs()
    inner: Inner = field(default_factory=Inner)
    limit: int = 0
    delete: bool = False
    num_workers: Annotated[Bounds, Range(1, 8)] = Bounds((1, 1))
    precision: Literal["fp32", "bf16"] = "fp32"
    experiment: str = "bonafide"

    def __post_init__(self) -> None:
        if self.limit == 9:
            raise InputError("--limit 9 is too many")


def outer(*argv: str) -> Outer:
    return parse(Outer, argv, command="bonafide test", description="A command.\n\n    bonafide test STORE\n")


def test_flags_fill_the_config():
    config = outer(
        *("--store", "/x", "--corpora", "a,b", "--roots", "a=/x,b=s3://y/z"),
        *("--inner.max-seconds", "5", "--precision", "bf16", "--inner.weights", "spoof=2,mlaad/spoof=0.5"),
    )
    assert config == Outer(
        *("/x", Names(("a", "b")), Pairs([("a", "/x"), ("b", "s3://y/z")])),
        Inner(5.0, weights={"spoof": 2.0, "mlaad/spoof": 0.5}),
        precision="bf16",
    )


def test_a_relative_location_starts_from_the_current_folder_in_flags_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "settings").mkdir()
    path = tmp_path / "settings" / "c.toml"
    path.write_text("store = '../store'\nroots = ['mls=mls', 'b=s3://c']\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    expected = Outer(f"{tmp_path}/store", roots=Pairs([("mls", f"{tmp_path}/work/mls"), ("b", "s3://c")]))
    assert outer("--config", "../settings/c.toml") == expected
    assert outer("../store", "--roots", "mls=mls,b=s3://c") == expected


def test_an_empty_value_in_a_file_is_the_default_as_in_the_file_that_a_command_writes(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text("corpora = []\nroots = []\n[inner.weights]\n")
    assert outer("/x", "--config", str(path)) == Outer("/x")
    path.write_text("store = ''")
    with pytest.raises(InputError, match="--store: expected a path"):
        outer("--config", str(path))


def test_defaults_have_the_type_of_their_field():
    assert outer("/x").roots.get("a") is None
    assert isinstance(outer("/x").corpora, Names)


def test_a_nested_config_keeps_the_defaults_of_the_field_that_holds_it():
    @dataclass(frozen=True)
    class Short:
        inner: Inner = field(default_factory=lambda: Inner(5.0))

    assert parse(Short, ["--inner.shuffle=false"], command="bonafide test").inner == Inner(5.0, False)


def test_bounds_are_one_integer_or_two(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text("store = '/x'\nnum_workers = 3\n")
    assert outer("--config", str(path)).num_workers == (3, 3)
    for argv in (["--num-workers", "2,5"], ["--num_workers=2, 5"]):
        config = outer("/x", *argv)
        assert config.num_workers == (2, 5)
        path.write_text(to_toml(config))
        assert outer("--config", str(path)) == config
    for wrong in ("two", "1,2,3", "1.5", ""):
        with pytest.raises(InputError, match="--num-workers"):
            outer("/x", "--num-workers", wrong)


def test_a_first_argument_without_dashes_is_the_first_field():
    assert outer("/x", "--limit=3") == Outer("/x", limit=3)


def test_a_boolean_flag_may_stand_alone():
    assert outer("--delete", "--store", "x").delete
    assert not outer("--store", "x", "--inner.shuffle", "false").inner.shuffle


@pytest.mark.parametrize("text", [".inf", "inf"])
def test_infinity_is_a_number(text: str):
    assert outer("/x", "--inner.max-seconds", text).inner.max_seconds == math.inf


def test_toml_reads_back_what_was_written_and_flags_win(tmp_path: Path):
    config = Outer(
        *("/x", Names(("a,b", "c")), Pairs([("a", "/b")]), Inner(math.inf, False, {"a/b": 0.5})),
        *(7, True, Bounds((2, 3)), "bf16"),
    )
    path = tmp_path / "c.toml"
    path.write_text(to_toml(config))
    assert outer("--config", str(path)) == config
    changed = replace(config, inner=replace(config.inner, max_seconds=7.0))
    assert outer("--inner.max_seconds", "7", "--config", str(path)) == changed


def test_later_files_win(tmp_path: Path):
    for name, limit in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.toml").write_text(f"limit = {limit}\n[inner]\nshuffle = false\n")
    argv = [word for name in "ab" for word in ("--config", f"{tmp_path}/{name}.toml")]
    assert outer("/x", *argv) == Outer("/x", inner=Inner(shuffle=False), limit=2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stor", "x"], r"unknown argument --stor; did you mean --store\?"),
        (["--store", "x", "extra"], "unknown argument extra; known: .*--store"),
        (["--store", "x", "--inner", "3"], "unknown argument --inner; "),
        ([], "missing --store"),
        (["x", "--store", "y"], "--store is given twice; give it once"),
        (["x", "--limit", "1", "--limit=2"], "--limit is given twice"),
        (["x", "--inner.share", "1.5"], "--inner.share: expected a number from 0 to 1, got '1.5'"),
        (["x", "--num-workers", "0"], "--num-workers: expected an integer, or two .* from 1 to 8, got '0'"),
        (["x", "--inner.weights", "spoof=nan"], "--inner.weights: expected name=number pairs"),
        (["x", "--corpora", "a,a"], "--corpora: expected names .* got 'a,a'"),
        (["x", "--corpora="], "--corpora: expected names .* got ''"),
        (["x", "--experiment="], "--experiment: expected text, got ''"),
        (["x", "--experiment", "\udcff"], "--experiment: expected text, got '.udcff'"),
        (["--store", "gs://b/x"], "--store: expected a path or an s3:// URI, got 'gs://b/x'"),
        (["x", "--limit", "9"], "--limit 9 is too many"),
        (["x", "--inner.max-seconds", "0.5"], "--inner.max-seconds 0.5 is less than --inner.share 1.0"),
        (["--store"], "--store: expected one argument"),
        (["--store", "x", "--limit", "many"], "--limit: expected an integer, got 'many'"),
        (["--store", "x", "--limit", "1.5"], "--limit: expected an integer"),
        (["--store", "x", "--inner.max-seconds", "long"], "--inner.max-seconds: expected a number"),
        (["--store", "x", "--delete", "maybe"], "--delete: expected true or false"),
        (["--store", "x", "--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
        (["--store", "x", "--roots", "nonsense"], "--roots: expected NAME=PATH pairs"),
        (["--store", "x", "--inner.weights", "spoof=a"], "--inner.weights: expected name=number pairs"),
        (["--config", "/nowhere.toml"], r"/nowhere\.toml: cannot be read"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(argv: list[str], message: str):
    with pytest.raises(InputError, match=message) as caught:
        outer(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stor = 'x'", r"unknown argument --stor; did you mean --store\?"),
        (
            "[inner]\nmax_second = 3",
            r"unknown argument --inner.max-second; did you mean --inner.max-seconds\?",
        ),
        ("limit = 'many'", "--limit: expected an integer, got 'many'"),
        ("delete = 2", "--delete: expected true or false"),
        ("limit = ''", "--limit: expected an integer, got ''"),
        ("[inner.weights]\nspoof = [2]", "--inner.weights: expected name=number pairs"),
        ("inner = 3", "unknown argument --inner; "),
        ("config = 'other.toml'", "a file cannot name another one"),
        ("limit = ", "not valid TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_file(tmp_path: Path, text: str, message: str):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"c\.toml: {message}") as caught:
        outer("/x", "--config", str(path))
    assert "\n" not in str(caught.value)


def test_help_shows_the_docstrings_of_module_sections_and_fields(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        outer("--help")
    assert not stopped.value.code
    shown = capsys.readouterr().out
    assert shown.startswith("usage: bonafide test [STORE] [FLAGS]\n")
    assert "\n    bonafide test STORE\n" in shown
    assert "Folder of the store; it is 100 % local. (required)" in " ".join(shown.split())
    assert "inner:\n  How batches are made.\n" in shown
    assert "Padded seconds per batch. (default: 100.0; above 0 up to 1,000,000,000, or inf)" in " ".join(
        shown.split()
    )
    assert "--precision {fp32,bf16}" in shown


def reject(config: Outer) -> None:
    """A command that cannot work with its input."""
    raise InputError(f"{config.store}: not found")


def crash(config: Outer) -> None:
    """A command with a bug."""
    raise ValueError("a bug")


def test_a_user_error_prints_one_line_and_exits_with_status_2(capsys: pytest.CaptureFixture[str]):
    assert run(reject, ["--store", "/x"]) == 2
    assert capsys.readouterr().err == "bonafide test_config: /x: not found\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        run(crash, ["--store", "x"])


def test_every_preset_is_toml():
    presets = sorted((Path(__file__).parents[1] / "jobs" / "presets").glob("*.toml"))
    assert presets
    for preset in presets:
        assert load_toml(preset)


def test_a_closed_pipe_ends_a_command_without_a_message():
    command = [sys.executable, "-m", "jobs", "corpora"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()  # long before the command prints its table
        assert process.stderr.read() == b""
    assert process.returncode == 141


def bonafide(*argv: str, forbidden: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, which fails if it imports one of these modules."""
    program = (
        "import runpy, sys\n"
        f"sys.argv = {['bonafide', *argv]!r}\n"
        "try: runpy.run_module('jobs', run_name='__main__')\n"
        "except SystemExit as stopped: status = stopped.code\n"
        f"imported = {set(forbidden)!r} & set(sys.modules)\n"
        "assert not imported, imported\n"
        "sys.exit(status)\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_help_lists_every_command_with_its_summary_and_imports_none():
    done = bonafide(
        "--help", forbidden=["numpy", "pipeline.config", *(f"jobs.{name}" for name in commands())]
    )
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.MULTILINE)
    assert dict(listed) == commands()
    names = [name for name, _ in listed]
    assert names[:5] == ["corpora", "ingest", "train", "score", "evaluate"]
    assert names[5:] == sorted(names[5:])


def test_every_module_of_jobs_that_defines_main_is_a_command():
    for name in commands():
        assert callable(importlib.import_module(f"jobs.{name}").main)
    assert not {"__main__", "ray_session"} & set(commands())


def test_an_unknown_command_is_named_with_the_nearest_one():
    done = bonafide("trian", "--store", "x", forbidden=[])
    assert (done.returncode, done.stderr) == (2, "bonafide: unknown command 'trian'; did you mean train?\n")


@pytest.mark.parametrize("command", commands())
def test_help_of_a_command_imports_no_heavy_library(command: str):
    heavy = {"ray", "torch", "mlflow", "matplotlib", "sklearn", "scipy"}
    done = bonafide(command, "--help", forbidden=heavy)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


@pytest.mark.parametrize("name", ["ingest", "train", "score"])
def test_a_config_that_workers_receive_has_a_module_of_its_own(name: str):
    """Under `python -m jobs.NAME` a class in jobs/NAME.py would be `__main__.…`, which no worker can import."""
    config = config_class(importlib.import_module(f"jobs.{name}").main)
    assert config.__module__.startswith("jobs.")
    assert config.__module__ != f"jobs.{name}"
