"""Terminals, signals, temporary folders, and Ray itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.corpora import write_in_the_wild
from tests.jobs.situations.situation import TIMEOUT_S, Outcome, Place, Situation, as_process

INGEST = "ingest --root data --store store --corpora in_the_wild"
JOB_FOLDER = "session/runtime_resources/working_dir_files/_ray_pkg_1"
"""Where Ray unpacks `ray job submit --working-dir`, below its folder for temporary files."""


def corpus(place: Place) -> None:
    """A small corpus."""
    write_in_the_wild(place.here / "data", count=4)


def taken_folder(place: Place) -> None:
    """A corpus, and a file in place of the folder for temporary files."""
    corpus(place)
    (place.here / "file").touch()


def into_full_device(argv: Sequence[str], place: Place, environment: Mapping[str, str]) -> Outcome:
    """Run the command in a process of its own whose standard output is a full device."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *argv],
            cwd=place.here,
            env=os.environ | dict(environment),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    return Outcome(done.returncode, done.stderr)


def terminated(argv: Sequence[str], place: Place, environment: Mapping[str, str]) -> Outcome:
    """Run the command in a process of its own, and send it SIGTERM when it has planned what its tasks will do."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", *argv],
        cwd=place.here,
        env=os.environ | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if "planned" in line)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return Outcome(process.returncode, stderr, line + stdout)


SITUATIONS = [
    Situation(
        what="standard output on a full disk",
        command="corpora",
        line="standard output cannot be written: No space left on device",
        remedy="Commands whose results are files (`ingest`, `train`, `score`, `evaluate`, `demo`) continue without it.",
        run=into_full_device,
    ),
    Situation(
        what="SIGTERM while shards are built",
        command=INGEST,
        line="stopped by SIGTERM at once; run the same command again to continue",
        status=143,
        leaves=("store/*",),
        remedy="A closed terminal (SIGHUP) and Ctrl-C do the same, unless SIGHUP is ignored, as under `nohup`.",
        prepare=corpus,
        run=terminated,
    ),
    Situation(
        what="nothing listens at RAY_ADDRESS",
        command=INGEST,
        line="RAY_ADDRESS=127.0.0.1:1: no cluster answers there (Connection refused); start it, or unset RAY_ADDRESS "
        "to work on this machine alone",
        prepare=corpus,
        run=as_process,
        environment={"RAY_ADDRESS": "127.0.0.1:1"},
    ),
    Situation(
        what="a folder for temporary files that cannot be used",
        command=INGEST,
        line="{here}/file/…: Not a directory; Ray needs a folder for temporary files: set RAY_TMPDIR to one",
        prepare=taken_folder,
        run=as_process,
        environment={"RAY_TMPDIR": "{here}/file"},
    ),
    Situation(
        what="a relative path for the results of a submitted job",
        command=f"score --audio data --checkpoint detector.safetensors --out {{here}}/{JOB_FOLDER}/scores",
        line=f"--out {{here}}/{JOB_FOLDER}/scores: Ray deletes this folder after the job; give an s3:// URI, or the "
        "absolute path of a folder that all machines share",
    ),
]
