"""Says what a training waits for, as long as the cluster has no room for its workers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from jobs.ray_session import cluster_use
from jobs.training.config import TrainConfig
from pipeline.progress import ANSWER_S, clock, counted

CHECK_S = 5.0
"""How often the cluster is asked whether it has room."""

FIRST_S = 30.0
"""The first line comes after so many seconds without room, and the others after twice as many each."""

LONGEST_S = 600.0
"""The longest time between two lines."""


@contextlib.contextmanager
def explained(config: TrainConfig, use_gpu: bool, has_room: Callable[[], bool]) -> Iterator[None]:
    """A context that prints, as long as there is no room, which workers wait for it."""
    is_over = threading.Event()

    def explain() -> None:
        since, due_s = time.monotonic(), FIRST_S
        while not is_over.wait(CHECK_S):
            if has_room():
                since, due_s = time.monotonic(), FIRST_S
                continue
            waited_s = time.monotonic() - since
            if waited_s >= due_s and not is_over.is_set():
                workers, use = needs(config, use_gpu), cluster_use()
                parts = [f"waiting for room for {workers}", f"{clock(waited_s)} elapsed", use]
                print(" · ".join(filter(None, parts)), flush=True)
                due_s += min(due_s, LONGEST_S)

    thread = threading.Thread(target=explain, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(ANSWER_S)


def needs(config: TrainConfig, use_gpu: bool) -> str:
    """The smallest training that can start: `1 worker with 4 CPUs and 1 GPU`, `2 workers with 1 CPU each`."""
    smallest, _ = config.num_workers
    each = counted(config.cpus_per_worker, "CPU") + (" and 1 GPU" if use_gpu else "")
    return f"{counted(smallest, 'worker')} with {each}{' each' if smallest > 1 else ''}"
