"""Standard streams that are closed, full, or without Unicode: no command ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.streams  # noqa: F401 - registers the error handler

ROOT = Path(__file__).parents[1]

LISTING = """
import sys
from pipeline.streams import run_with_safe_streams

def work():
    for number in range(100_000):
        print("a line", number)
    return 0

sys.exit(run_with_safe_streams("bonafide list", work))
"""

JOB = """
import sys
from pathlib import Path
from pipeline.streams import continue_without_output, run_with_safe_streams

def work():
    continue_without_output()
    for number in range(100_000):
        print("progress", number)
        print("progress", number, file=sys.stderr)
    Path("result").write_text("complete")
    return 1

sys.exit(run_with_safe_streams("bonafide job", work))
"""

FIRST_FILE = """
import os, sys
from pipeline.streams import run_with_safe_streams

def work():
    with open("result", "w") as file:
        print("lost")
        print("lost", file=sys.stderr)
        file.write("complete")
    return 0

sys.exit(run_with_safe_streams("bonafide job", work))
"""

WATCHED = """
import os, sys
from pipeline.streams import run_with_safe_streams

def work():
    print("a line")
    os.abort()

sys.exit(run_with_safe_streams("bonafide job", work))
"""


def shell(program: str, redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with redirections of a shell."""
    return subprocess.run(
        ["/bin/bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirection}', sys.executable, program],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        ("| head -1", 141, ""),
        ("> /dev/full", 2, "bonafide list: standard output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
        ("> /dev/full 2>&1", 2, ""),
    ],
)
def test_a_listing_that_nobody_can_read_ends(redirection: str, status: int, message: str, tmp_path: Path):
    done = shell(LISTING, redirection, tmp_path)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize(
    "redirection", ["2>&1 | head -1", "> /dev/full 2>&1", ">&- 2>&-", "> /dev/null 2> /dev/full"]
)
def test_a_job_whose_results_are_files_continues_without_its_output(redirection: str, tmp_path: Path):
    done = shell(JOB, redirection, tmp_path)
    assert (done.returncode, done.stderr) == (1, "")  # its own status
    assert (tmp_path / "result").read_text() == "complete"


def test_each_line_is_written_at_once_also_to_a_file(tmp_path: Path):
    assert shell(WATCHED, "> log", tmp_path).returncode != 0
    assert (tmp_path / "log").read_text() == "a line\n"


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path):
    assert shell(FIRST_FILE, "<&- >&- 2>&-", tmp_path).returncode == 0
    assert (tmp_path / "result").read_text() == "complete"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("12× real time · 0:08 left …", "12x real time - 0:08 left ..."),
        ("café.wav", r"caf\xe9.wav"),
        (b"not-utf-8-\xff.wav".decode("utf-8", "surrogateescape"), r"not-utf-8-\xff.wav"),
    ],
)
def test_text_falls_back_to_ascii(text: str, plain: str):
    assert text.encode("ascii", "bonafide.plain_text").decode() == plain


def test_the_name_of_a_file_that_is_not_utf_8_can_be_printed():
    name = b"caf\xc3\xa9-\xff.wav".decode("utf-8", "surrogateescape")
    assert name.encode("utf-8", "bonafide.plain_text").decode() == r"café-\xff.wav"


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}]
)
def test_every_character_of_our_own_messages_has_plain_text(environment: dict[str, str]):
    program = (
        "import sys\n"
        "from pipeline.progress import Progress\n"
        "from pipeline.streams import run_with_safe_streams\n"
        "def work():\n"
        "    with Progress('building', 3, 'shard') as progress:\n"
        "        progress.add(1, audio_s=3600)\n"
        "    return 0\n"
        "sys.exit(run_with_safe_streams('bonafide ingest', work))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"building 1/3 shards" in done.stderr
    assert b"\\x" not in done.stderr
