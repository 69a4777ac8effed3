"""A lease on a folder: one process at a time works there, and proves with heartbeats that it is alive.

A process acquires the lease by creating the next numbered file in `FOLDER/lease`, which only one process can, and
rewrites that file every few seconds. A claim that is not rewritten for its lifetime has expired: its owner died. Others
find that out by watching the file, so the clocks of machines need not agree. Numbers only grow: a process that was
replaced, however late it wakes up, sees a higher number and stops writing.
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
HEARTBEATS_PER_LIFETIME = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """The contents of a lease file: who owns the folder, and since when."""

    host: str
    pid: int
    machine: str
    """Identifies the boot and the process id namespace; empty where the system does not tell."""
    started: str
    """When the process started, in clock ticks of the machine; tells apart processes that reuse an id."""
    heartbeat: str
    """Time of the last heartbeat by the owner's clock; only for people to read."""
    num_beats: int
    lifetime_s: float
    is_released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def expires(self) -> str:
        """When the claim expires without another heartbeat, by the owner's clock."""
        end = datetime.fromisoformat(self.heartbeat) + timedelta(seconds=self.lifetime_s)
        return f"{end:%Y-%m-%d %H:%M:%S} UTC"

    def is_running(self) -> bool | None:
        """Whether the owner is alive; None if it runs on another machine, where this one cannot look."""
        if not self.machine or self.machine != _machine_id():
            return None
        return _start_time(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Fence:
    """The number of a claim, for workers of its owner to check before each write."""

    folder: Folder
    number: int

    def check(self) -> None:
        """Check that no other process has taken over the folder.

        Raises:
            InputError: another process has.
        """
        newest = _newest(self.folder)
        if newest != self.number:
            owner = _read(self.folder, newest) if newest is not None else None
            raise InputError(
                f"{self.folder.uri} was taken over by {owner or 'another process'}; this process writes nothing more"
            )


class Lease:
    """An acquired lease; a thread writes its heartbeats."""

    def __init__(self, folder: Folder, number: int, claim: Claim) -> None:
        self.fence = Fence(folder, number)
        self._claim = claim
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_released, name="lease", daemon=True)
        self._thread.start()

    def _beat_until_released(self) -> None:
        folder = self.fence.folder
        while not self._stop.wait(self._claim.lifetime_s / HEARTBEATS_PER_LIFETIME):
            try:
                if _newest(folder) != self.fence.number:
                    return  # taken over; the next check of the fence reports it
                self._write(replace(self._claim, heartbeat=_now(), num_beats=self._claim.num_beats + 1))
            except Exception as error:
                # The storage may be unavailable for a while; the next heartbeat tries again.
                logger.warning("could not write a heartbeat to %s: %s", folder.location(LEASE), error)

    def _write(self, claim: Claim) -> None:
        self.fence.folder.commit(_name(self.fence.number), _to_bytes(claim))
        self._claim = claim

    def release(self) -> None:
        """Free the folder, unless another process has taken it over.

        A claim that cannot be written, as on a full disk, expires by itself; the error before it matters more.
        """
        self._stop_heartbeats()
        folder = self.fence.folder
        try:
            if _newest(folder) == self.fence.number:
                self._write(replace(self._claim, is_released=True))
        except InputError as error:
            logger.warning("could not release the lease in %s: %s", folder.location(LEASE), error)

    def withdraw(self) -> None:
        """Free the folder and delete the claim. Only for a folder that is not fenced against earlier owners."""
        self._stop_heartbeats()
        self.fence.folder.delete(_name(self.fence.number))

    def _stop_heartbeats(self) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def held(
    folder: Folder,
    lifetime_s: float = LIFETIME_S,
    log: Callable[[str], None] = print,
    remedy: str = "stop that process or choose another folder",
) -> Iterator[Lease]:
    """Hold the lease on a folder until the block ends; if this process dies, the lease expires after its lifetime.

    Args:
        folder: the folder to work in.
        lifetime_s: how long a claim lasts without a heartbeat.
        log: receives a line when this process waits for the claim of another one to expire.
        remedy: what the user can do if another process works in the folder.

    Raises:
        InputError: another process works in the folder; the message names it.
    """
    lease = Lease(folder, *_acquire(folder, lifetime_s, log, remedy))
    try:
        yield lease
    finally:
        lease.release()


def check_free(folder: Folder, remedy: str, log: Callable[[str], None] = print) -> None:
    """Check that no other process holds the lease on a folder; see `held`.

    Raises:
        InputError: another process does; the message names it.
    """
    expired: dict[int, Claim] = {}
    for number in _numbers(folder):
        _wait_until_inactive(folder, number, expired, log, remedy)


def _acquire(folder: Folder, lifetime_s: float, log: Callable[[str], None], remedy: str) -> tuple[int, Claim]:
    expired: dict[int, Claim] = {}  # claims that did not change while they were watched for their lifetime
    while True:
        numbers = _numbers(folder)
        for number in numbers:
            _wait_until_inactive(folder, number, expired, log, remedy)
        number = max(numbers, default=0) + 1
        claim = Claim(
            socket.gethostname(), os.getpid(), _machine_id(), _start_time(os.getpid()), _now(), 0, lifetime_s
        )
        if not folder.create(_name(number), _to_bytes(claim)):
            continue  # another process was quicker; watch its claim
        # A number that was deleted may have been created again since we listed them. Of two processes that both list
        # after they have created their files, at least one sees the other.
        numbers = _numbers(folder)
        others = [other for other in numbers if other < number]
        if numbers[-1:] != [number] or any(
            _is_active(_read(folder, other), expired.get(other)) for other in others
        ):
            folder.delete(_name(number))
            continue
        for old in others:
            folder.delete(_name(old))
        return number, claim


def _is_active(claim: Claim | None, expired: Claim | None) -> bool:
    """Whether the claim may still be active: not released, not expired, owner not known to be dead.

    Args:
        claim: the claim as it is stored now; None if it was deleted.
        expired: the claim of the same number as it was when it expired, if it did.
    """
    return (
        claim is not None and claim != expired and not claim.is_released and claim.is_running() is not False
    )


def _wait_until_inactive(
    folder: Folder, number: int, expired: dict[int, Claim], log: Callable[[str], None], remedy: str
) -> None:
    """Wait until the claim of that number is released or expires; a claim that expires is added to `expired`.

    Raises:
        InputError: its owner is alive.
    """
    first = _read(folder, number)
    if first is None or not _is_active(first, expired.get(number)):
        return
    if first.is_running():
        raise _in_use(folder, first, remedy)
    log(f"{folder.uri} was used by {first}; waiting up to {first.lifetime_s:.0f} s for its next heartbeat")
    started = time.monotonic()
    while time.monotonic() - started < first.lifetime_s:
        time.sleep(first.lifetime_s / (2 * HEARTBEATS_PER_LIFETIME))
        now = _read(folder, number)
        if now is None or now.is_released:
            return
        if now != first:
            raise _in_use(folder, now, remedy)
    expired[number] = first


def _in_use(folder: Folder, claim: Claim, remedy: str) -> InputError:
    return InputError(
        f"{claim} is using {folder.uri} (its lease lasts until {claim.expires} and is renewed while it runs); {remedy}"
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
            f"{folder.location(_name(number))} is not a lease; delete it if no process works in {folder.uri}"
        ) from error


def _to_bytes(claim: Claim) -> bytes:
    return json.dumps(asdict(claim), indent=1).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine_id() -> str:
    """The boot id and the process id namespace, within which a process id is unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of a process; empty if it does not exist or is a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
