"""Start Ray on this machine or join a cluster; no other module does."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, UnavailableError
from pipeline.progress import counted
from pipeline.signals import SIGNALS
from pipeline.storage import private_folder

if TYPE_CHECKING:
    from ray.data import Dataset

RAY_ENV = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep GPUs visible in tasks that ask for none
    "RAY_LOGGER_LEVEL": "error",  # Ray Train logs every report of every rank
    "RAY_task_oom_retries": "3",  # by default, a task that fills the memory is tried for ever
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
}
"""Environment of Ray's processes."""

LOCAL_ENV = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a local machine is not preempted
    "RAY_USAGE_STATS_ENABLED": "0",  # no report to the makers of Ray
    # There is no dashboard. Ray Train would search for it for 40 s, and no training would end in less than 12 s.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
}
"""Further environment of a local Ray."""

CLUSTER_ENV = {
    "RAY_gcs_server_port_wait_time_s": "1",  # one attempt; the default of Ray is 20, of 40 s each
    "RAY_py_gcs_connect_timeout_s": "10",
}
"""Environment for joining a cluster."""

DATA_LOGGERS = ("ray.data._internal.progress", "ray.data")
"""Loggers about Ray Data's internals: progress bars, execution plans."""

CONNECT_TIMEOUT_S = 5.0
"""How long the head of a cluster may take to accept a connection."""

MAX_TEMPORARY_LENGTH = 107 - len("/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store")
"""Bytes of the longest folder for temporary files: Ray puts sockets below it, and the path of one has at most 107."""

SHARED_FOLDER = Path("/tmp")  # noqa: S108 - only for a folder that no other user can write to
"""For temporary files of all users of the machine."""


@contextlib.contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names (Ray sets it for submitted jobs), or start Ray on this machine.

    Args:
        num_cpus: CPUs of a local Ray, all cores by default; ignored on a cluster.

    Raises:
        InputError: no cluster can be joined at RAY_ADDRESS, or there is no folder for the sockets of a local Ray.
    """
    address = os.environ.get("RAY_ADDRESS")
    is_local = not names_cluster()
    set_defaults(RAY_ENV | (LOCAL_ENV if is_local else CLUSTER_ENV))  # before the import, which reads it
    import ray

    silence("ray._private.authentication")
    if ray.is_initialized():
        with _reraise_user_errors():
            yield
        return
    with keep_signal_handlers():
        if address is None or is_local:
            start_locally(num_cpus)
        else:
            join_cluster(address)
    try:
        with _reraise_user_errors():
            yield
    finally:
        ray.shutdown()


def task_for_each(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """A dataset of Ray Data whose rows are each processed by a task of their own."""
    import ray.data  # takes a second, and only some jobs use it

    ray.data.DataContext.get_current().enable_progress_bars = False  # commands print their own progress
    silence(*DATA_LOGGERS)
    return ray.data.from_items(list(rows), override_num_blocks=max(1, len(rows)))


def silence(*loggers: str) -> None:
    """Let loggers of Ray print no errors, which are raised as well."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def names_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster to join."""
    return os.environ.get("RAY_ADDRESS") not in (None, "", "local")


def has_ray() -> bool:
    """Whether jobs of this process work on a Ray that exists already."""
    if names_cluster():
        return True
    ray = sys.modules.get("ray")  # importing it takes a second
    return ray is not None and ray.is_initialized()


def set_defaults(environment: dict[str, str]) -> None:
    """Set the variables that the user has not set."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def start_locally(num_cpus: int | None) -> None:
    """Start Ray on this machine.

    Raises:
        InputError: its folder for temporary files cannot be used.
        UnavailableError: it does not start in time.
    """
    import ray

    if not _can_keep_token():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())
    folders = temporary_folders()
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
            **folders,
        )
    except OSError as error:
        if error.filename is None:
            raise
        raise InputError(
            f"{error.filename}: {error.strerror}; Ray needs a folder for temporary files: set RAY_TMPDIR to one"
        ) from error
    except Exception as error:  # Ray raises no narrower class
        if "timed out during startup" not in str(error):
            raise
        raise UnavailableError(
            "Ray did not start within 30 s: this machine is too busy, or another process has ended those of Ray"
        ) from error


def _can_keep_token() -> bool:
    """Whether Ray can read or write its token in the home directory, which may not exist or be read-only."""
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor the system knows it
        return False
    return os.access(home / ".ray" / "auth_token", os.R_OK) or os.access(home, os.W_OK)


def temporary_folders() -> dict[str, Any]:
    """Arguments of `ray.init` with a short folder for Ray's sockets and logs, if that of the system is too long.

    Objects that do not fit into memory are still written to the folder of the system, which has the space.

    Raises:
        InputError: the short folder cannot be used.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or str(SHARED_FOLDER)
    if len(os.fsencode(folder)) <= MAX_TEMPORARY_LENGTH:
        return {}
    remedy = f"set RAY_TMPDIR to a folder of your own with at most {MAX_TEMPORARY_LENGTH} characters"
    try:
        short = private_folder(SHARED_FOLDER, remedy)
    except InputError as error:
        raise InputError(
            f"temporary folder {folder}: too long for the sockets of Ray, and {error}"
        ) from error
    return {"_temp_dir": str(short / "ray"), "object_spilling_directory": folder}


def join_cluster(address: str) -> None:
    """Join a running cluster.

    Args:
        address: `HOST:PORT` of the head, or `auto` for a cluster on this machine.

    Raises:
        InputError: the address is not that of a cluster, or the cluster refuses this process.
        UnavailableError: nothing answers there.
    """
    import ray

    start = f"RAY_ADDRESS={address}"
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"{start}: this address is for `ray job submit`; unset RAY_ADDRESS to work on this machine alone"
        )
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"{start}: {_explanation(error)}") from error


def _check_reachable(address: str) -> None:
    """Raise UnavailableError if nothing listens at an address: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except ValueError as error:
        raise InputError(f"RAY_ADDRESS={address}: expected HOST:PORT of the head of a Ray cluster") from error
    except OSError as error:
        raise UnavailableError(
            f"RAY_ADDRESS={address}: no cluster answers there ({error.strerror or error}); "
            "start it, or unset RAY_ADDRESS to work on this machine alone"
        ) from error


def _explanation(error: BaseException) -> str:
    """Why Ray refused to join a cluster, in one line."""
    import ray

    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text = f"{error}\n{text}"
    if isinstance(error, ray.exceptions.AuthenticationError) or "AuthenticationError" in text:
        return (
            "the cluster requires a token, and that of this process is missing or wrong; set RAY_AUTH_MODE=token, and "
            "copy ~/.ray/auth_token from a machine of the cluster"
        )
    if versions := re.findall(r"(Ray|Python): (\S+)", text):
        words = [" ".join(version) for version in versions]
        half = len(words) // 2
        theirs, ours = ", ".join(words[:half]), ", ".join(words[half:])
        return f"the cluster has {theirs}, and this process {ours}; install the versions of the cluster"
    return "what answers there is no Ray cluster, or does not accept this process"


@contextlib.contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers that Ray replaces while it starts; its own would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    is_stopped = False
    try:
        yield
    except SystemExit:  # from the handler of Ray, which only SIGTERM has
        is_stopped = True
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if is_stopped:
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def _reraise_user_errors() -> Iterator[None]:
    """Raise the InputError that a task raised: Ray Data returns only the text of its traceback."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        message = re.search(r"^(?:\x1b\[\d+m)?pipeline\.errors\.\w+: (.+)$", str(error), re.MULTILINE)
        if message:
            raise InputError(message[1]) from error
        raise


def num_devices() -> tuple[int, int]:
    """The number of CPUs and GPUs of the connected cluster."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


def cluster_use() -> str:
    """How much of a cluster all its jobs use: `in use on the cluster: 8 of 8 CPUs`; empty on a machine alone."""
    if not names_cluster():
        return ""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    amounts = [
        f"{total[name] - free.get(name, 0):g} of {counted(int(total[name]), name)}"
        for name in ("CPU", "GPU")
        if total.get(name)
    ]
    if not amounts:
        return "no machine with a CPU or a GPU has joined the cluster"
    return f"in use on the cluster: {', '.join(amounts)}"
