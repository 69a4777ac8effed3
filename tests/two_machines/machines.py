"""Machines on a network of their own: each has its network, processes, host name and /tmp.

A machine is a process in new namespaces, whose end kills every process of the machine and removes its network
interface. That process ends with the test process, however the latter ends, so nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED = "/mnt/shared"
"""Where every machine finds the shared folder."""

START_TIMEOUT_S = 20.0

# `unshare` is killed with the test process, and the first process of the machine with `unshare`. That process ignores
# SIGCHLD, so the kernel removes every process that it inherits.
_START = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--fork",
    "--kill-child",
    "--pid",
    "--mount-proc",
    "--net",
)
_SLEEP = "trap '' CHLD; echo ready; exec sleep infinity"

# /mnt is assembled first and /tmp replaced last, because the folders to keep may be below /tmp.
_MOUNT = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir -m 1777 /mnt/tmp /mnt/shared
mount --bind "$SHARED_FOLDER" /mnt/shared
for kept in $KEPT; do mkdir -p "/mnt$kept"; mount --rbind "$kept" "/mnt$kept"; done
mount -t tmpfs tmpfs /dev/shm
mount --rbind /mnt/tmp /tmp
hostname "$NAME"
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$NAME" > /mnt/hosts
mount --bind /mnt/hosts /etc/hosts
ip link set lo up
"""


@dataclass(frozen=True, eq=False)
class Machine:
    """A running machine. Its host name resolves to a loopback address, as on a fresh Debian."""

    name: str
    address: str
    pid: int
    """Of its first process."""
    port: str
    """Its port on the switch."""
    starter: subprocess.Popen[str]

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line that runs `words` on the machine."""
        namespaces = ("--net", "--mount", "--uts", "--pid")
        return ["nsenter", f"--target={self.pid}", *namespaces, "--wdns=/", "--", *words]

    def kill(self) -> None:
        """Kill every process of the machine at once, and wait until they are gone."""
        _kill(self.starter)


class Network:
    """A switch with an uplink to the test process; machines are plugged into it."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._subnet = f"198.18.{os.getpid() % 256}"  # reserved for tests of networks
        self._uplink = f"bonafide{os.getpid()}"[:15]
        self._num_ports = 0
        self._machines: list[Machine] = []
        self.address = f"{self._subnet}.254"
        """Of the test process."""
        self._switch, self._switch_pid = _start_namespace([*_START, "sh", "-c", _SLEEP], {})
        try:
            self._on_switch("link", "add", "switch", "type", "bridge")
            self._on_switch("link", "set", "switch", "up")
            self._plug("uplink", ["name", self._uplink])
            _run("ip", "address", "add", f"{self.address}/24", "dev", self._uplink)
            _run("ip", "link", "set", self._uplink, "up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill every machine, and remove the network."""
        for machine in self._machines:
            machine.kill()
        # A namespace ends some time after its last process; the uplink must be gone before the next network starts.
        with contextlib.suppress(subprocess.CalledProcessError):  # it was not added yet
            _run("ip", "link", "delete", self._uplink)
        _kill(self._switch)

    def start(self, name: str, number: int) -> Machine:
        """Start a machine; `number` is the last part of its address."""
        root, prefix = Path(__file__).parents[2], Path(sys.prefix)
        kept = [str(path) for path in (root, prefix) if path.is_relative_to("/tmp")]
        environment = {**os.environ, "SHARED_FOLDER": str(self._shared), "NAME": name, "KEPT": " ".join(kept)}
        words = [*_START, "--mount", "--uts", "sh", "-c", _MOUNT + _SLEEP]
        starter, pid = _start_namespace(words, environment)
        self._num_ports += 1
        port = f"port{self._num_ports}"
        machine = Machine(name, f"{self._subnet}.{number}", pid, port, starter)
        self._machines.append(machine)
        self._plug(port, ["name", "eth0", "netns", str(pid)])
        inside = ("nsenter", f"--target={pid}", "--net", "ip")
        _run(*inside, "address", "add", f"{machine.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        return machine

    def cut(self, machine: Machine) -> None:
        """Unplug a machine: its packets are lost, and no other machine is notified."""
        self._on_switch("link", "set", machine.port, "down")

    def _plug(self, port: str, peer: Sequence[str]) -> None:
        """Connect a new port of the switch with a new interface elsewhere."""
        _run("ip", "link", "add", "name", port, "netns", str(self._switch_pid), "type", "veth", "peer", *peer)
        self._on_switch("link", "set", port, "master", "switch", "up")

    def _on_switch(self, *words: str) -> None:
        _run("nsenter", f"--target={self._switch_pid}", "--net", "ip", *words)


@contextlib.contextmanager
def network(shared: Path) -> Iterator[Network]:
    """A network whose machines share a folder; everything on it ends with the block."""
    switch = Network(shared)
    try:
        yield switch
    finally:
        switch.close()


def missing_rights() -> str:
    """Why this computer cannot run machines; empty if it can."""
    try:
        with tempfile.TemporaryDirectory() as folder, network(Path(folder)) as switch:
            switch.start("probe", 1)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(getattr(error, "stderr", None) or error).strip()
    return ""


def _start_namespace(
    words: Sequence[str], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[str], int]:
    """Start a process in new namespaces; returns its starter, and its own id as seen from here."""
    starter = subprocess.Popen(
        words,
        env=environment or None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert starter.stdout is not None
    lines = []
    for line in starter.stdout:
        lines.append(line)
        if line == "ready\n":
            children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text()
            return starter, int(children)
    raise subprocess.CalledProcessError(starter.wait(), words, stderr="".join(lines))


def _kill(starter: subprocess.Popen[str]) -> None:
    """Kill all processes of a namespace and wait for the first one, whose end follows that of all others."""
    if starter.returncode is None:
        starter.kill()
        starter.communicate()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
