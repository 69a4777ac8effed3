"""A lease lets one process at a time work in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.lease import held
from pipeline.storage import Folder

WORK = """
import sys, time
from pipeline.lease import held
from pipeline.storage import Folder
with held(Folder(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path / "root"))
    return Folder(f"{request.getfixturevalue('bucket')}/root")


def claims(folder: Folder) -> dict[str, dict[str, object]]:
    names = [info.name for info in folder.find("lease") if info.name.endswith(".json")]
    return {name: json.loads(folder.read(name)) for name in names}


def write_foreign_claim(folder: Folder, number: int, **fields: object) -> None:
    """The claim of a process on another machine."""
    claim = {
        "host": "elsewhere",
        "pid": 17,
        "machine": "another",
        "started": "1",
        "heartbeat": "2026-01-01T00:00:00+00:00",
        "num_beats": 0,
        "lifetime_s": 0.5,
    }
    folder.commit(f"lease/{number:08d}.json", json.dumps(claim | fields).encode())


def test_the_error_for_a_second_process_names_the_first(folder: Folder):
    refused = pytest.raises(InputError, match=f"process {os.getpid()} on .* is using .*root .*UTC")
    with held(folder), refused, held(folder):
        pass


def test_a_lease_is_released_after_the_block_and_after_an_exception(folder: Folder):
    with pytest.raises(RuntimeError, match="midway"), held(folder):
        raise RuntimeError("midway")
    for number in (2, 3):
        with held(folder) as lease:
            assert lease.fence.number == number
            lease.fence.check()
    assert list(claims(folder)) == ["lease/00000003.json"]


def test_a_killed_owner_on_this_machine_is_replaced_at_once(folder: Folder):
    owner = subprocess.Popen([sys.executable, "-c", WORK, folder.uri], stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(InputError, match=f"process {owner.pid} on"), held(folder):
            pass
        owner.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
        with held(folder) as lease:
            assert lease.fence.number == 2


def test_an_owner_on_another_machine_without_heartbeats_is_replaced(folder: Folder):
    write_foreign_claim(folder, 4)
    lines: list[str] = []
    with held(folder, log=lines.append) as lease:
        assert lease.fence.number == 5
    assert len(lines) == 1
    assert "was used by process 17 on elsewhere" in lines[0]


def test_every_owner_whose_claim_expired_is_replaced(folder: Folder):
    for number in (3, 4):  # the later owner died before it deleted the earlier claim
        write_foreign_claim(folder, number)
    lines: list[str] = []
    with held(folder, log=lines.append) as lease:
        assert lease.fence.number == 5
    assert len(lines) == 2
    assert list(claims(folder)) == ["lease/00000005.json"]


def test_an_owner_on_another_machine_with_heartbeats_keeps_the_lease(folder: Folder):
    ended = threading.Event()

    def beat() -> None:
        for num_beats in range(1, 1000):
            write_foreign_claim(folder, 4, lifetime_s=12.0, num_beats=num_beats)
            if ended.wait(0.05):
                return

    write_foreign_claim(folder, 4, lifetime_s=12.0)
    owner = threading.Thread(target=beat)
    owner.start()
    try:
        with pytest.raises(InputError, match="process 17 on elsewhere is using"), held(folder):
            pass
    finally:
        ended.set()
        owner.join()


def test_a_replaced_owner_writes_nothing_more(folder: Folder):
    with held(folder, lifetime_s=3600) as lease:  # no heartbeat is due during the test
        write_foreign_claim(folder, 2)
        before = claims(folder)
        with pytest.raises(InputError, match="taken over by process 17 on elsewhere"):
            lease.fence.check()
    assert claims(folder) == before


def test_the_owner_writes_heartbeats(folder: Folder):
    with held(folder, lifetime_s=0.3):
        while claims(folder)["lease/00000001.json"]["num_beats"] == 0:
            time.sleep(0.01)
    assert claims(folder)["lease/00000001.json"]["is_released"]


def test_one_of_many_concurrent_attempts_acquires_the_lease(folder: Folder):
    all_tried = threading.Barrier(6, timeout=120)

    def attempt(_: int) -> bool:
        try:
            with held(folder):
                all_tried.wait()
                return True
        except InputError:
            all_tried.wait()
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1


def test_a_malformed_lease_file_is_named(folder: Folder):
    folder.commit("lease/00000001.json", b"half")
    with pytest.raises(InputError, match=r"00000001.json is not a lease"), held(folder):
        pass
