"""A second machine beside the local Ray of the tests: it joins, and its preemption can be announced."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
GRACE_S = 240
"""How long a machine is said to stay after its preemption was announced."""

PAUSE_S = 1.0
"""Five times as long as Ray Train takes to ask for preemptions again."""


@contextlib.contextmanager
def second_machine(num_cpus: int) -> Iterator[str]:
    """Let another machine join the Ray of this process; yields its id."""
    import ray

    address = ray.get_runtime_context().gcs_address
    before = {node["NodeID"] for node in ray.nodes()}
    command = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        f"--address={address}",
        f"--num-cpus={num_cpus}",
    ]
    machine = subprocess.Popen(
        [*command, "--block"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + TIMEOUT_S
        while not (joined := {node["NodeID"] for node in ray.nodes() if node["Alive"]} - before):
            assert machine.poll() is None, machine.communicate()[0]
            assert time.monotonic() < until, "the second machine did not join in time"
            time.sleep(0.1)
        (name,) = joined
        yield name
    finally:
        machine.terminate()
        machine.communicate(timeout=TIMEOUT_S)


@contextlib.contextmanager
def reserved_core() -> Iterator[Callable[[], None]]:
    """Reserve a core of the machine of this process; yields a function that frees it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Reserved:
        def wait(self) -> None:
            """Return once the core is reserved."""

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=1)(Reserved).options(scheduling_strategy=here).remote()
    ray.get(actor.wait.remote())
    try:
        yield functools.partial(ray.kill, actor)
    finally:
        ray.kill(actor)


def announce_preemption(machine: str, worker: int) -> None:
    """Announce the preemption of a machine, as an autoscaler or a cloud would.

    Args:
        machine: its id.
        worker: the process that trains there. It is paused meanwhile: on a busy computer, it would be through before
            the announcement reaches it.
    """
    import ray
    import ray._raylet
    from ray.core.generated import autoscaler_pb2

    core: Any = ray._raylet  # its types are incomplete
    reasons: Any = autoscaler_pb2
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + GRACE_S) * 1000)
    address = ray.get_runtime_context().gcs_address
    os.kill(worker, signal.SIGSTOP)
    try:
        core.GcsClient(address=address).drain_node(machine, reason, "preempted", deadline_ms)
        time.sleep(PAUSE_S)
    finally:
        os.kill(worker, signal.SIGCONT)
