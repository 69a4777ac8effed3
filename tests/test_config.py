from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.config import Bounds, Names, Pairs, digest, load_toml, parse, run, to_toml
from pipeline.errors import InputError


@dataclass(frozen=True)
class Inner:
    max_seconds: float = 100.0
    """Padded seconds per batch."""
    shuffle: bool = True


@dataclass(frozen=True)
class Outer:
    store: str
    """Where it lies."""
    corpora: Names = Names()
    roots: Pairs = Pairs()
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None
    delete: bool = False
    workers: Bounds = Bounds((1, 1))


def of(*words: str) -> Outer:
    return parse(Outer, words, command="bonafide test")


def test_flags_fill_the_config():
    config = of("--store", "x", "--corpora", "a,b", "--roots", "a=/x,b=s3://y/z", "--inner.max-seconds", "5")
    assert config == Outer("x", Names(("a", "b")), Pairs([("a", "/x"), ("b", "s3://y/z")]), Inner(5.0))


def test_what_is_left_out_has_its_own_type_too():
    assert of("x").roots.get("a") is None
    assert isinstance(of("x").corpora, Names)


def test_one_number_or_two_bound_something(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text("store = 'x'\nworkers = 3\n")
    assert of("--config", str(path)).workers == (3, 3)
    for words in (["--workers", "2,5"], ["--workers=2, 5"]):
        config = of("x", *words)
        assert config.workers == (2, 5)
        path.write_text(to_toml(config))
        assert of("--config", str(path)) == config
    for wrong in ("two", "1,2,3", "1.5", ""):
        with pytest.raises(InputError, match="--workers"):
            of("x", "--workers", wrong)


def test_a_first_word_without_dashes_is_the_first_field():
    assert of("x", "--limit=3") == Outer("x", limit=3)


def test_a_boolean_flag_may_stand_alone():
    assert of("--delete", "--store", "x").delete
    assert not of("--store", "x", "--inner.shuffle", "false").inner.shuffle


def test_toml_reads_back_what_was_written_and_flags_win(tmp_path: Path):
    config = Outer("x", Names(("a",)), Pairs([("a", "b")]), Inner(3.0, False), None, True)
    path = tmp_path / "c.toml"
    path.write_text(to_toml(config))
    assert of("--config", str(path)) == config
    assert of("--config", str(path), "--inner.max_seconds", "7").inner == Inner(7.0, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stor", "x"], r"unknown flag --stor; did you mean --store\?"),
        ([], "missing --store"),
        (["--store", "x", "--limit", "many"], "--limit: "),
        (["--store", "x", "--roots", "nonsense"], "name=value"),
        (["--config", "/nowhere.toml"], r"/nowhere\.toml: cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(words: list[str], message: str):
    with pytest.raises(InputError, match=message) as caught:
        of(*words)
    assert "\n" not in str(caught.value)


def test_equal_configs_have_equal_digests():
    assert digest(Outer("x")) == digest(Outer("x"))
    assert digest(Outer("x")) != digest(Outer("y"))


def picky(config: Outer) -> None:
    """A job that cannot work with its input."""
    raise InputError(f"{config.store}: not there")


def broken(config: Outer) -> None:
    """A job with a bug."""
    raise ValueError("a bug")


def test_a_users_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]):
    assert run(picky, ["--store", "x"]) == 2
    assert capsys.readouterr().err == "bonafide test_config: x: not there\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        run(broken, ["--store", "x"])


def test_every_preset_is_toml():
    presets = sorted((Path(__file__).parents[1] / "jobs" / "presets").glob("*.toml"))
    assert presets
    for preset in presets:
        assert load_toml(preset)


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-m", "jobs", "corpora"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()  # long before the table is there
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("command", ["corpora", "ingest", "train", "score", "evaluate", "demo"])
def test_help_does_not_wait_for_the_heavy_libraries(command: str):
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['bonafide', '{command}', '--help']\n"
        "try: runpy.run_module('jobs', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'ray', 'torch', 'mlflow', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout
