"""One situation, the folder in which it happens, and how its command runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import run_command

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 240
"""A command of a situation that takes longer hangs."""


@dataclass(frozen=True)
class Outcome:
    """The end of a command."""

    status: int
    stderr: str
    stdout: str = ""


@dataclass(frozen=True)
class Place:
    """The working folder of a command, and the fixtures of the test."""

    here: Path
    request: pytest.FixtureRequest

    def fixture(self, name: str) -> Any:
        """A fixture by its name, such as `bucket`, an empty one on an S3 server."""
        return self.request.getfixturevalue(name)


def nothing(place: Place) -> None:
    """Prepare nothing."""


def in_process(argv: Sequence[str], place: Place, environment: Mapping[str, str]) -> Outcome:
    """Run the command in this process, which is fast; jobs use the Ray of the tests if the situation needs one."""
    capture = place.fixture("capsys")
    capture.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.here)
        for name, value in environment.items():
            patch.setenv(name, value)
        status = run_command(argv[0], argv[1:])
    output = capture.readouterr()
    return Outcome(status, output.err, output.out)


def as_process(argv: Sequence[str], place: Place, environment: Mapping[str, str]) -> Outcome:
    """Run the command in a process of its own, for what concerns a whole process: its streams, signals, start."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *argv],
        cwd=place.here,
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Outcome(done.returncode, done.stderr, done.stdout)


Runner = Callable[[Sequence[str], Place, Mapping[str, str]], Outcome]


@dataclass(frozen=True)
class Situation:
    """Something wrong, the command that meets it, and what the user sees.

    `command`, `line` and the values of `environment` may contain `{here}`, the working folder of the command; in
    `line`, `…` stands for any text.
    """

    what: str
    """What is wrong, as a user would say it: `a misspelled augmentation`. Unique."""
    command: str
    """What follows `bonafide`, with arguments separated by single spaces."""
    line: str
    """The message: the last line on standard error, after `bonafide COMMAND: `."""
    status: int = 2
    leaves: tuple[str, ...] = ()
    """Patterns of the files and empty folders that are new or changed afterwards; none by default."""
    remedy: str = ""
    """For the page, in Markdown: what to do, if the line does not say it."""
    prepare: Callable[[Place], None] = nothing
    """Makes the situation in the folder."""
    run: Runner = in_process
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_ray: bool = False
    """Whether the command starts Ray; then it runs on that of the tests."""
