from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.audio.isolation import MAX_ATTEMPTS, crash_safe, in_subprocess
from pipeline.data.audio.load import AudioError, Header, Loaded
from pipeline.storage import Folder

HOW: dict[str, Any] = {"start": None, "end": None, "resampler": "soxr_hq"}


def load(data: bytes, name: str, *, start: int | None, end: int | None, resampler: str) -> Loaded:
    """Stands in for a decoder: some files end it, some stop it."""
    if data == b"crash":
        os.abort()
    if data == b"hang":
        time.sleep(600)
    if data == b"bad":
        raise AudioError("undecodable", name, "as the decoder says")
    header = Header("wav", "pcm", "PCM_S", 16_000, 1, 3, 16, 0, 3 / 16_000, False)
    return Loaded(np.arange(3, dtype=np.float32), header, "libsndfile")


def test_a_file_that_ends_the_decoder_costs_only_itself():
    with in_subprocess(load, hang_s=30) as decode:
        reasons = []
        for data in (b"good", b"crash", b"bad", b"good"):
            try:
                loaded = decode(data, "x.wav", **HOW)
                reasons.append(str(loaded.waveform.tolist()))
            except AudioError as error:
                reasons.append(error.reason)
    assert reasons == ["[0.0, 1.0, 2.0]", "crashes_decoder", "undecodable", "[0.0, 1.0, 2.0]"]


def test_a_file_that_stops_the_decoder_is_given_up():
    with in_subprocess(load, hang_s=3) as decode, pytest.raises(AudioError, match="hangs_decoder"):
        decode(b"hang", "x.wav", **HOW)


def run(program: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, timeout=60)


def test_a_watched_decoder_that_hangs_ends_its_process():
    done = run(
        "import time\n"
        "from pipeline.data.audio.isolation import with_watchdog\n"
        "with with_watchdog(lambda data, name: time.sleep(60), hang_s=0.5) as decode: decode(b'', 'x')\n"
    )
    assert done.returncode == 1
    assert b"Timeout" in done.stderr


def test_many_quick_files_may_take_longer_than_one_may():
    done = run(
        "import time\n"
        "from pipeline.data.audio.isolation import with_watchdog\n"
        "with with_watchdog(lambda data, name: time.sleep(0.05), hang_s=0.5) as decode:\n"
        "    for number in range(20): decode(b'', 'x')\n"
    )
    assert done.returncode == 0, done.stderr


def test_who_takes_over_from_a_dead_worker_loses_only_the_file(tmp_path: Path):
    store = Folder(str(tmp_path))
    died = run(
        "import sys\n"
        "from pipeline.data.audio.isolation import crash_safe\n"
        "from pipeline.storage import Folder\n"
        "from tests.data.audio.test_isolation import HOW, load\n"
        "with crash_safe(load, Folder(sys.argv[1]), 'attempts/work') as decode: decode(b'crash', 'x.wav', **HOW)\n",
        store.uri,
    )
    assert died.returncode < 0
    assert store.read("attempts/work") == b"1"
    with crash_safe(load, store, "attempts/work") as decode:
        with pytest.raises(AudioError, match="crashes_decoder"):
            decode(b"crash", "x.wav", **HOW)
        assert len(decode(b"good", "y.wav", **HOW).waveform) == 3
    assert not store.exists("attempts/work")


def test_an_exception_is_no_death(tmp_path: Path):
    store = Folder(str(tmp_path))
    with pytest.raises(OSError, match="disk"), crash_safe(load, store, "attempts/work"):
        raise OSError("the disk is gone")
    assert not store.exists("attempts/work")


def test_work_that_keeps_killing_workers_is_given_up_once(tmp_path: Path):
    store = Folder(str(tmp_path))
    store.commit("attempts/work", str(MAX_ATTEMPTS).encode())
    with (
        pytest.raises(RuntimeError, match="work: 4 workers died over it"),
        crash_safe(load, store, "attempts/work"),
    ):
        pass
    with crash_safe(load, store, "attempts/work") as decode:
        assert len(decode(b"good", "y.wav", **HOW).waveform) == 3
