"""A file that crashes or hangs its decoder costs that file alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.isolation import MAX_ATTEMPTS, crash_safe, in_subprocess
from pipeline.data.audio.load import Loaded
from pipeline.data.audio.reader import Header
from pipeline.errors import InputError
from pipeline.storage import Folder

OPTIONS: dict[str, Any] = {"start": None, "end": None, "resampler": "soxr_hq"}


def load(data: bytes, name: str, *, start: int | None, end: int | None, resampler: str) -> Loaded:
    """A stand-in for a decoder that some files crash or hang."""
    if data == b"crash":
        os.abort()
    if data == b"hang":
        time.sleep(600)
    if data == b"bad":
        raise AudioError("undecodable", name, "the decoder gave up")
    header = Header("wav", "pcm", "PCM_S", 16_000, 1, 3, 16, 0, 3 / 16_000)
    return Loaded(np.arange(3, dtype=np.float32), header, "libsndfile")


def test_a_file_that_crashes_the_decoder_is_rejected_and_the_next_one_is_decoded():
    with in_subprocess(load, hang_s=30) as decode:
        outcomes = []
        for data in (b"good", b"crash", b"bad", b"good"):
            try:
                loaded = decode(data, "x.wav", **OPTIONS)
                outcomes.append(str(loaded.waveform.tolist()))
            except AudioError as error:
                outcomes.append(error.reason)
    assert outcomes == ["[0.0, 1.0, 2.0]", "crashes_decoder", "undecodable", "[0.0, 1.0, 2.0]"]


def test_a_file_that_hangs_the_decoder_is_rejected_after_the_time_limit():
    with in_subprocess(load, hang_s=3) as decode, pytest.raises(AudioError, match="hangs_decoder"):
        decode(b"hang", "x.wav", **OPTIONS)


def test_the_decoding_process_of_a_killed_worker_exits():
    program = (
        "import os, signal\n"
        "from pipeline.data.audio.isolation import in_subprocess\n"
        "from tests.data.audio.test_isolation import OPTIONS, load\n"
        "with in_subprocess(load) as decode:\n"
        "    decode(b'good', 'x.wav', **OPTIONS)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = run(program)  # returns once no process holds its output open
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, timeout=240)


def test_the_watchdog_ends_a_process_whose_decoder_hangs():
    done = run(
        "import time\n"
        "from pipeline.data.audio.isolation import with_watchdog\n"
        "with with_watchdog(lambda data, name: time.sleep(60), hang_s=0.5) as decode: decode(b'', 'x')\n"
    )
    assert done.returncode == 1
    assert b"Timeout" in done.stderr


def test_the_time_limit_is_for_each_file_and_not_for_all_of_them():
    done = run(
        "import time\n"
        "from pipeline.data.audio.isolation import with_watchdog\n"
        "with with_watchdog(lambda data, name: time.sleep(0.1), hang_s=4) as decode:\n"
        "    for number in range(50): decode(b'', 'x')\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_worker_after_a_dead_one_rejects_only_the_bad_file(tmp_path: Path):
    store = Folder(str(tmp_path))
    died = run(
        "import sys\n"
        "from pipeline.data.audio.isolation import crash_safe\n"
        "from pipeline.storage import Folder\n"
        "from tests.data.audio.test_isolation import OPTIONS, load\n"
        "with crash_safe(load, Folder(sys.argv[1]), 'attempts/work') as decode: decode(b'crash', 'x.wav', **OPTIONS)\n",
        store.uri,
    )
    assert died.returncode < 0
    assert store.read("attempts/work") == b"1"
    with crash_safe(load, store, "attempts/work") as decode:
        with pytest.raises(AudioError, match="crashes_decoder"):
            decode(b"crash", "x.wav", **OPTIONS)
        assert len(decode(b"good", "y.wav", **OPTIONS).waveform) == 3
    assert not store.exists("attempts/work")


def test_an_exception_does_not_count_as_the_death_of_a_worker(tmp_path: Path):
    store = Folder(str(tmp_path))
    with pytest.raises(OSError, match="disk"), crash_safe(load, store, "attempts/work"):
        raise OSError("disk failure")
    assert not store.exists("attempts/work")


def test_work_that_keeps_killing_workers_fails_once_and_then_starts_afresh(tmp_path: Path):
    store = Folder(str(tmp_path))
    store.commit("attempts/work", str(MAX_ATTEMPTS).encode())
    with (
        pytest.raises(InputError, match="attempts/work: 4 processes died while they did this work"),
        crash_safe(load, store, "attempts/work"),
    ):
        pass
    with crash_safe(load, store, "attempts/work") as decode:
        assert len(decode(b"good", "y.wav", **OPTIONS).waveform) == 3
