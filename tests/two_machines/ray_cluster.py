"""A Ray cluster on machines of their own, and jobs submitted to it as users submit them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.two_machines.machines import SHARED, Machine, Network

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

CONFIG = ROOT / "cluster" / "ray-cluster.yaml"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
RAY = str(Path(sys.executable).parent / "ray")
OBJECT_STORE_BYTES = 100_000_000
ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "0",  # tests read every line
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more for each attempt, and no machine is preempted
}
POLL_S = 0.5
NUM_ATTEMPTS = 4
TIMEOUT_S = 400.0
"""For a computer that has much else to do."""


@dataclass(frozen=True)
class Node:
    """A machine as Ray sees it."""

    address: str
    is_alive: bool
    died: float
    """When Ray declared it dead, in seconds since 1970; 0 while it is alive."""


class RayCluster:
    """A head without CPUs, and workers with one CPU each; all processes need a token, as in `cluster/README.md`."""

    def __init__(self, network: Network, shared: Path, logs: Path) -> None:
        """Prepare a cluster without machines.

        Args:
            network: where its machines are.
            shared: the folder that all machines share.
            logs: an existing folder for what Ray and the jobs print.
        """
        self.network = network
        self._logs = logs
        self._jobs: list[Job] = []
        self.head: Machine
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TMPDIR"))
        }
        home = shared / "home"
        home.mkdir()
        common = {**inherited, "RAY_AUTH_MODE": "token"}
        self._here = {**common, "HOME": str(home)}
        self._there = {**common, "HOME": f"{SHARED}/{home.name}", **ENVIRONMENT, **_settings()}
        command = [RAY, "get-auth-token", "--generate"]
        done = subprocess.run(command, env=self._here, check=True, capture_output=True, text=True)
        self._token = done.stdout.split()[-1]

    def start_head(self, name: str, number: int) -> None:
        """Start a head without CPUs; a cluster whose head was lost gets a new one.

        Args:
            name: host name.
            number: the last part of its address.
        """
        self.head = self.network.start(name, number)
        flags = [f"--port={GCS_PORT}", "--num-cpus=0", "--dashboard-host=0.0.0.0", "--disable-usage-stats"]
        self._start_ray(self.head, ["--head", *flags])

    def add_worker(self, name: str, number: int) -> Machine:
        """Start a machine with one CPU that joins the cluster; its arguments are those of `start_head`."""
        worker = self.network.start(name, number)
        self._start_ray(worker, [f"--address={self.head.address}:{GCS_PORT}", "--num-cpus=1"])
        return worker

    def lose(self, machine: Machine) -> float:
        """Unplug a machine, kill everything on it, and wait until Ray has noticed; returns when Ray did."""
        self.network.cut(machine)
        machine.kill()
        return wait_for(
            lambda: self._time_of_death(machine.address), lambda: f"{machine.name} is still alive"
        )

    def submit(self, module: str, *flags: str) -> Job:
        """Submit `python -m MODULE FLAGS` with `ray job submit`, which prints what the job prints."""
        log = self._logs / f"{len(self._jobs)}-{module}.log"
        address = f"http://{self.head.address}:{DASHBOARD_PORT}"
        words = [RAY, "job", "submit", f"--address={address}", "--"]
        with log.open("w") as file:
            process = subprocess.Popen(
                [*words, sys.executable, "-m", module, *flags], env=self._here, stdout=file, stderr=file
            )
        self._jobs.append(Job(process, log))
        return self._jobs[-1]

    def close(self) -> None:
        """End the commands that submitted jobs; the jobs themselves end with their machines."""
        for job in self._jobs:
            job.forget()

    def _nodes(self) -> list[Node]:
        """All machines that have joined; none if Ray is too busy to tell."""
        connection = http.client.HTTPConnection(self.head.address, DASHBOARD_PORT, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {self._token}"}
            connection.request("GET", "/api/v0/nodes?detail=1", headers=headers)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:  # on a busy computer, Ray does not find out in time
                return []
            rows: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return [
            Node(row["node_ip"], row["state"] == "ALIVE", (row["end_time_ms"] or 0) / 1000) for row in rows
        ]

    def _time_of_death(self, address: str) -> float | None:
        """When Ray declared the newest machine of an address dead; None if it is alive."""
        nodes = [node for node in self._nodes() if node.address == address]
        return (
            None if any(node.is_alive for node in nodes) else max((node.died for node in nodes), default=None)
        )

    def _start_ray(self, machine: Machine, flags: Sequence[str]) -> None:
        """Start Ray on a machine. On a busy computer, it gives up after some seconds and is started again."""
        words = ["start", *flags, f"--node-ip-address={machine.address}"]
        for _ in range(NUM_ATTEMPTS):
            if self._run(machine, [*words, f"--object-store-memory={OBJECT_STORE_BYTES}"]) == 0:
                return
            self._run(machine, ["stop", "--force"])
        raise AssertionError(self._log(machine).read_text())

    def _run(self, machine: Machine, words: Sequence[str]) -> int:
        """Run a command of Ray on a machine, in a session of its own: Linux divides the CPU among sessions."""
        with self._log(machine).open("a") as log:
            return subprocess.run(
                machine.command([RAY, *words]),
                env=self._there,
                stdout=log,
                stderr=log,
                start_new_session=True,
                timeout=TIMEOUT_S,
                check=False,
            ).returncode

    def _log(self, machine: Machine) -> Path:
        return self._logs / f"ray-{machine.name}.log"


class Job:
    """A submitted job."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def output(self) -> str:
        """What it has printed so far."""
        return re.sub(r"\x1b\[\d*m", "", self._log.read_text())

    def wait(self) -> None:
        """Wait until it has succeeded."""
        assert self._process.wait(TIMEOUT_S) == 0, self.output()

    def forget(self) -> None:
        """End the command that submitted it, which would wait forever for a head that was unplugged."""
        self._process.kill()
        self._process.wait()

    def has_ended(self) -> bool:
        """Whether it has succeeded, failed, or lost its head."""
        return self._process.poll() is not None


def wait_for(find: Callable[[], T | None], describe: Callable[[], str]) -> T:
    """Wait for a result that is not None; if there never is one, the test fails with the description."""
    until = time.monotonic() + TIMEOUT_S
    while (found := find()) is None:
        assert time.monotonic() < until, describe()
        time.sleep(POLL_S)
    return found


def _settings() -> Mapping[str, str]:
    """The settings with which the cluster of this repository notices lost machines."""
    settings = dict(re.findall(r"(RAY_(?:health_check|grpc)_\w+)=(\d+)", CONFIG.read_text(encoding="utf-8")))
    assert settings
    return settings
