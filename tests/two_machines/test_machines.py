"""What two machines do together; they are namespaces of this one, so only root on Linux can run these tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.two_machines.machines import SHARED, Network, missing_rights, network

TIMEOUT_S = 240


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Network]:
    """The network of the machines, which share a folder."""
    reason = missing_rights()
    if reason:
        pytest.skip(f"this process may not start machines: {reason}")
    with network(tmp_path) as wires:
        yield wires


def test_machines_share_only_a_folder(wires: Network, tmp_path: Path) -> None:
    alpha, beta = wires.start("alpha", 1), wires.start("beta", 2)
    write = f"touch /tmp/own {SHARED}/written-by-$(hostname)"
    subprocess.run(alpha.command(["sh", "-c", write]), check=True)
    seen = subprocess.run(beta.command(["ls", "/tmp", SHARED]), check=True, capture_output=True, text=True)
    assert "written-by-alpha" in seen.stdout
    assert "own" not in seen.stdout.split()
    assert (tmp_path / "written-by-alpha").exists()


def test_killing_a_machine_ends_its_processes_and_frees_its_address(wires: Network) -> None:
    lost = wires.start("alpha", 1)
    running = subprocess.Popen(lost.command(["sleep", "1000"]))
    wires.cut(lost)
    lost.kill()
    assert running.wait(TIMEOUT_S) != 0
    wires.start("alpha", 1)


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_workers_connect_although_host_names_resolve_to_loopback(wires: Network) -> None:
    machines = [wires.start("alpha", 1), wires.start("beta", 2)]
    running = [
        subprocess.Popen(
            machine.command(
                [
                    sys.executable,
                    "-m",
                    "tests.two_machines.rank",
                    machine.address,
                    str(rank),
                    machines[0].address,
                ]
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, machine in enumerate(machines)
    ]
    for process in running:
        output, errors = process.communicate(timeout=TIMEOUT_S)
        assert output == "sum 3\n", errors
