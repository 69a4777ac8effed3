"""Train on a cluster of two machines, one of which is preempted: `drained.py PLACE OUT`.

It runs in its own process, because it starts another Ray than the one that tests share.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import train
from jobs.ray_session import LOCAL_ENV, RAY_ENV
from tests.jobs.training.trainings import TRAINING, config, wait_for_step

NUM_STEPS = 30
GRACE_S = 240
PAUSE_S = 1.0
"""Five times as long as Ray Train takes to ask for preemptions again."""


def main(place: Path, out: str) -> None:
    os.environ |= {**RAY_ENV, **LOCAL_ENV}
    os.environ |= {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
    import ray
    from ray.cluster_utils import Cluster

    machines: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        machines.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = machines.address  # as in a submitted job
    ray.init(address=machines.address)
    threading.Thread(target=drain, args=(place, out, machines.address), daemon=True).start()
    steps = replace(TRAINING.optimiser, num_steps=NUM_STEPS)
    training = replace(
        TRAINING, optimiser=steps, num_accumulated=6, validate_every=1000, checkpoint_every=1000
    )
    train.main(replace(config(place, out, (1, 1)), training=training, tracking_uri=""))


def drain(place: Path, out: str, address: str) -> None:
    """Announce the preemption of the machine with the worker, as an autoscaler or a cloud would.

    The worker is paused meanwhile: on a busy computer, it would be through before the announcement reaches it.
    """
    import ray._raylet
    from ray._private.state import actors
    from ray.core.generated import autoscaler_pb2

    wait_for_step(place, out, 5)
    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    worker = next(actor for actor in alive if "RayTrainWorker" in actor["ActorClassName"])
    os.kill(worker["Pid"], signal.SIGSTOP)
    core: Any = ray._raylet  # its types are incomplete
    reasons: Any = autoscaler_pb2
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + GRACE_S) * 1000)
    core.GcsClient(address=address).drain_node(worker["Address"]["NodeID"], reason, "preempted", deadline_ms)
    time.sleep(PAUSE_S)
    os.kill(worker["Pid"], signal.SIGCONT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
