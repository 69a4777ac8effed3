"""Start Ray on this machine or join a cluster; no other module does."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

from pipeline.errors import InputError

RAY_ENV = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep GPUs visible in tasks that ask for none
    "RAY_LOGGER_LEVEL": "error",  # Ray Train logs every report of every rank
    "RAY_task_oom_retries": "3",  # by default, a task that fills the memory is tried for ever
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
}
"""Environment of Ray's processes."""

LOCAL_ENV = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a local machine is not preempted
    # There is no dashboard. Ray Train would search for it for 40 s, and no training would end in less than 12 s.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
}
"""Further environment of a local Ray."""

SILENCED_LOGGERS = ("ray._private.authentication", "ray.data._internal.progress", "ray.data")
"""Loggers about Ray's internals: tokens, progress bars, execution plans."""


@contextlib.contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names (Ray sets it for submitted jobs), or start Ray on this machine.

    Args:
        num_cpus: CPUs of a local Ray, all cores by default; ignored on a cluster.
    """
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.data import DataContext

    for name in SILENCED_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their errors are raised as well

    if ray.is_initialized():
        with _reraise_user_errors():
            yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level=logging.WARNING)
    else:
        for name, value in LOCAL_ENV.items():
            os.environ.setdefault(name, value)
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, logging_level=logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False  # commands print their own progress
    try:
        with _reraise_user_errors():
            yield
    finally:
        ray.shutdown()


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
