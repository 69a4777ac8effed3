"""Says what a training waits for, as long as the cluster has no room for its workers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from jobs.ray_session import cluster_use
from jobs.training.config import TrainConfig
from pipeline.progress import ANSWER_S, clock, counted

FIRST_S = 30.0
"""The first line comes after so many seconds without room, and each further one after twice as long a pause."""

LONGEST_S = 600.0
"""The longest pause between two lines."""


@contextlib.contextmanager
def explained(config: TrainConfig, use_gpu: bool, has_room: Callable[[], bool]) -> Iterator[None]:
    """A context that prints, as long as there is no room, which workers wait for it."""
    is_over = threading.Event()

    def explain() -> None:
        since, pause_s = time.monotonic(), FIRST_S
        while not is_over.wait(pause_s):
            if has_room() or is_over.is_set():
                since, pause_s = time.monotonic(), FIRST_S
                continue
            waited = clock(time.monotonic() - since)
            parts = [f"waiting for room for {needs(config, use_gpu)}", f"{waited} elapsed", cluster_use()]
            print(" · ".join(filter(None, parts)), flush=True)
            pause_s = min(2 * pause_s, LONGEST_S)

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
