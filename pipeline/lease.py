"""One process at a time works in a folder: it says so there, and goes on saying so.

Whoever wants to work creates the next numbered file in `FOLDER/lease`, which only one can, and rewrites it every few
seconds. A file that nobody rewrites for its lifetime belongs to nobody: its owner died. That is judged by watching
the file, so clocks of machines need not agree. And the numbers only grow: whoever was replaced, however late it
wakes up, finds a higher one and stops writing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage import Folder

LEASE = "lease"
LIFETIME_S = 60.0
BEATS = 12
"""Signs of life in a lifetime."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the file of an owner says."""

    host: str
    pid: int
    machine: str
    """The running system and its space of process ids; empty where the system does not say."""
    started: str
    """When the process started, in a unit of the machine: process ids are used again."""
    heartbeat: str
    """Time of the last sign of life, by the clock of its owner: for people."""
    num_beats: int
    lifetime_s: float
    is_released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def until(self) -> str:
        """When the claim ends without another sign of life, by the clock of its owner."""
        end = datetime.fromisoformat(self.heartbeat) + timedelta(seconds=self.lifetime_s)
        return f"{end:%Y-%m-%d %H:%M:%S} UTC"

    def is_running(self) -> bool | None:
        """Whether the owner is alive, where this machine can tell; a process of another one is out of sight."""
        if not self.machine or self.machine != _machine():
            return None
        return _started(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Fence:
    """A claim as its owner's helpers carry it, to ask before each write whether it still holds."""

    folder: Folder
    number: int

    def check(self) -> None:
        """Raise InputError if somebody else has taken the folder over."""
        newest = _newest(self.folder)
        if newest != self.number:
            owner = _read(self.folder, newest) if newest is not None else None
            raise InputError(
                f"{self.folder.uri} was taken over by {owner or 'another process'}; nothing more is written from here"
            )


class Lease:
    """A folder that is ours: a thread gives the signs of life."""

    def __init__(self, folder: Folder, number: int, claim: Claim) -> None:
        self.fence = Fence(folder, number)
        self._claim = claim
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_released, name="lease", daemon=True)
        self._thread.start()

    def _beat_until_released(self) -> None:
        folder = self.fence.folder
        while not self._ending.wait(self._claim.lifetime_s / BEATS):
            try:
                if _newest(folder) != self.fence.number:
                    return  # taken over: the fence tells whoever wants to write
                self._write(replace(self._claim, heartbeat=_now(), num_beats=self._claim.num_beats + 1))
            except Exception as error:  # a storage that is away for a while: the next beat tries again
                logger.warning("no sign of life in %s: %s", folder.location(LEASE), error)

    def _write(self, claim: Claim) -> None:
        self.fence.folder.commit(_name(self.fence.number), _to_bytes(claim))
        self._claim = claim

    def release(self) -> None:
        """Give the folder to whoever comes next; one that was taken over is left as it is."""
        self._ending.set()
        self._thread.join()
        if _newest(self.fence.folder) == self.fence.number:
            self._write(replace(self._claim, is_released=True))


@contextlib.contextmanager
def held(
    folder: Folder, lifetime_s: float = LIFETIME_S, say: Callable[[str], None] = print
) -> Iterator[Lease]:
    """Work in a folder alone; it is free again when the block ends, and a lifetime after this process dies.

    Raises:
        InputError: another process works there; the message says which and until when.
    """
    lease = Lease(folder, *_take(folder, lifetime_s, say))
    try:
        yield lease
    finally:
        lease.release()


def _take(folder: Folder, lifetime_s: float, say: Callable[[str], None]) -> tuple[int, Claim]:
    silent: dict[int, Claim] = {}  # claims that were watched for their lifetime, as they stood all the while
    while True:
        numbers = _numbers(folder)
        for number in numbers:
            _await_end(folder, number, silent, say)
        number = max(numbers, default=0) + 1
        claim = Claim(
            socket.gethostname(), os.getpid(), _machine(), _started(os.getpid()), _now(), 0, lifetime_s
        )
        if not folder.create(_name(number), _to_bytes(claim)):
            continue  # somebody was quicker, and is the one to watch now
        # A number that was given up may have been taken anew since we looked. Of two that both look after they
        # have created their files, at least one sees the other.
        numbers = _numbers(folder)
        others = [other for other in numbers if other < number]
        if numbers[-1:] != [number] or any(
            _is_held(_read(folder, other), silent.get(other)) for other in others
        ):
            folder.delete(_name(number))
            continue
        for old in others:
            folder.delete(_name(old))
        return number, claim


def _is_held(claim: Claim | None, silent: Claim | None) -> bool:
    """Whether a claim is that of somebody of whom we do not know that it has ended.

    silent: the claim of that number that gave no sign of life for its lifetime, if we have watched one.
    """
    return claim is not None and claim != silent and not claim.is_released and claim.is_running() is not False


def _await_end(folder: Folder, number: int, silent: dict[int, Claim], say: Callable[[str], None]) -> None:
    """Return once the claim of that number has ended; InputError as soon as its owner is seen alive."""
    first = _read(folder, number)
    if first is None or not _is_held(first, silent.get(number)):
        return
    if first.is_running():
        raise _refusal(folder, first)
    say(
        f"{folder.uri} belonged to {first}; waiting up to {first.lifetime_s:.0f} s for a sign of life from it"
    )
    began = time.monotonic()
    while time.monotonic() - began < first.lifetime_s:
        time.sleep(first.lifetime_s / (2 * BEATS))
        now = _read(folder, number)
        if now is None or now.is_released:
            return
        if now != first:
            raise _refusal(folder, now)
    silent[number] = first


def _refusal(folder: Folder, claim: Claim) -> InputError:
    return InputError(
        f"{claim} works in {folder.uri} (the lease runs until {claim.until} and is renewed); "
        "stop it, or choose another folder"
    )


def _name(number: int) -> str:
    return f"{LEASE}/{number:08d}.json"


def _numbers(folder: Folder) -> list[int]:
    try:
        names = [Path(info.name) for info in folder.find(LEASE)]
    except FileNotFoundError:
        return []
    return sorted(int(name.stem) for name in names if name.suffix == ".json" and name.stem.isdecimal())


def _newest(folder: Folder) -> int | None:
    return max(_numbers(folder), default=None)


def _read(folder: Folder, number: int) -> Claim | None:
    try:
        return Claim(**json.loads(folder.read(_name(number))))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{folder.location(_name(number))} is no lease; delete it if nobody works in {folder.uri}"
        ) from error


def _to_bytes(claim: Claim) -> bytes:
    return json.dumps(asdict(claim), indent=1).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    """The boot and the namespace of process ids: together they say what a process id means."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks between the boot and the start of a process; empty if there is none, or only its remains."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
