"""The one place that starts or joins Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

from pipeline.errors import InputError

RAY_ENV = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a CPU task may not hide the GPUs
    "RAY_LOGGER_LEVEL": "error",  # Ray Train prints every report of every rank
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
}
"""What Ray's processes read when they start."""

LOCAL_ENV = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody preempts a machine one sits at
    # There is no dashboard. Ray Train would look for it for forty seconds, and end no sooner than twelve.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
}
"""The same for a Ray on this machine alone."""

SILENCED_LOGGERS = ("ray._private.authentication", "ray.data._internal.progress", "ray.data")
"""Loggers that speak of Ray's own business: tokens, progress bars, the plan of each execution."""


@contextlib.contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), or start Ray on this machine.

    Args:
        num_cpus: of a local Ray; all cores by default. A cluster has its own.
    """
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.data import DataContext

    for name in SILENCED_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # an error is raised as well

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
    context.enable_progress_bars = False  # jobs print one line of their own
    try:
        with _reraise_user_errors():
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _reraise_user_errors() -> Iterator[None]:
    """Raise the InputError that ended a task: Ray Data sends an exception back as the text of its traceback."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        found = re.search(r"^(?:\x1b\[\d+m)?pipeline\.errors\.\w+: (.+)$", str(error), re.MULTILINE)
        if found:
            raise InputError(found[1]) from error
        raise


def num_devices() -> tuple[int, int]:
    """What a connected cluster computes with: its CPUs and its GPUs."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
