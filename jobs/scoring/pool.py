"""Chooses the scoring processes: how many, on which devices, and how they share cores and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.scoring.config import ScoreConfig
from jobs.scoring.parts import ScorerSettings
from pipeline.detector.details import Details
from pipeline.detector.memory import GIB, SAFETY
from pipeline.errors import InputError

BATCH_SECONDS = {"cpu": 10.0, "cuda": 200.0}
"""Audio per batch, in seconds. Larger batches fill a GPU, but leave the caches of a CPU: 30 s are a tenth slower."""

THREADS_PER_SCORER = 4
"""On a CPU, at most. Two scorers of one thread are no faster than one of two threads, and need twice the memory."""

DECODERS_PER_SCORER = {"cpu": 1 / 8, "cuda": 2}
"""A core decodes MP3 500 times faster than real time, and FLAC faster; it scores 10 times faster, a GPU 600 times."""

SPAN_SECONDS = {"cpu": 60.0, "cuda": 1800.0}
"""Audio in a span, in seconds: some seconds of work, which hide a call, and are not long to wait for at the end."""

SCORING_SHARE = 0.8
"""Share of a machine's free memory for all scorers; the rest is for decoding."""


@dataclass(frozen=True)
class ScorerPool:
    """The number of scoring processes, what each reserves, and how each computes."""

    num_workers: int
    num_cpus: float
    """CPUs that Ray reserves for a scorer."""
    num_gpus: float
    num_decoders: int
    """Parts that are decoded at the same time."""
    span_seconds: float
    """Audio that a scorer is given at a time; parts are divided into such spans, so that all scorers have work."""
    settings: ScorerSettings


@dataclass(frozen=True)
class Machine:
    """What a machine has for jobs."""

    num_cpus: int
    num_gpus: float


def choose_pool(
    config: ScoreConfig, part_seconds: Sequence[float], machines: Sequence[Machine], wanted: Details
) -> ScorerPool:
    """Choose as many processes as fit on the machines, unless the user gave a number; at most one a span.

    Args:
        config: devices, number of processes, and batches.
        part_seconds: audio of each part to score, once for each window policy.
        machines: what there is; none if a cluster starts its machines on demand.
        wanted: what scorers compute besides logits.

    Raises:
        InputError: the user requires GPUs, and this machine has none.
    """
    num_gpus = sum(machine.num_gpus for machine in machines)
    device = config.device if config.device != "auto" else ("cuda" if num_gpus else "cpu")
    # A cluster may add GPU machines on demand, so only a local Ray proves that there are none.
    if device == "cuda" and not num_gpus and not os.environ.get("RAY_ADDRESS"):
        raise InputError("--device cuda needs a GPU, and there is none on this machine; remove --device")
    if device == "cuda":
        num_workers = config.num_workers or max(1, int(num_gpus / config.gpus_per_worker))
    else:
        num_cpus = sum(machine.num_cpus for machine in machines)
        num_workers = config.num_workers or max(1, num_cpus // THREADS_PER_SCORER)
    batch_seconds = config.batch_seconds or BATCH_SECONDS[device]
    span_seconds = max(batch_seconds, SPAN_SECONDS[device])
    num_workers = min(num_workers, sum(max(1, math.ceil(seconds / span_seconds)) for seconds in part_seconds))
    cpus = share_cpus(num_workers, [machine.num_cpus for machine in machines if machine.num_cpus])
    settings = ScorerSettings(
        device=device,
        num_threads=cpus.num_threads,
        precision=config.precision,
        batch_seconds=batch_seconds,
        memory_bytes=config.memory_gib * GIB,
        memory_share=(
            SAFETY * min(1.0, config.gpus_per_worker)
            if device == "cuda"
            else SCORING_SHARE / cpus.num_scorers_per_machine
        ),
        wanted=wanted,
    )
    return ScorerPool(
        num_workers=num_workers,
        num_cpus=min(cpus.per_scorer, 0.5) if device == "cuda" else cpus.per_scorer,
        num_gpus=config.gpus_per_worker if device == "cuda" else 0,
        num_decoders=math.ceil(num_workers * DECODERS_PER_SCORER[device]),
        span_seconds=span_seconds,
        settings=settings,
    )


@dataclass(frozen=True)
class CpuShares:
    """How scorers and decoding share the CPUs of machines."""

    num_threads: int
    """Of each scorer."""
    per_scorer: float
    """CPUs that Ray reserves for a scorer."""
    num_scorers_per_machine: int
    """At most, if they are spread."""


def share_cpus(num_workers: int, machines: Sequence[int]) -> CpuShares:
    """Give scorers all cores as threads, and half of them as reservations, so that another job can run beside.

    Args:
        num_workers: number of scorers.
        machines: CPUs of each machine; none if the cluster starts its machines on demand.
    """
    machines = machines or [1]
    num_threads = max(1, min(sum(machines) // num_workers, *machines))
    per_scorer = min(num_threads, sum(machines) / num_workers) / 2
    return CpuShares(
        num_threads=num_threads,
        per_scorer=int(per_scorer) or per_scorer,  # Ray takes fractions only below 1
        num_scorers_per_machine=min(
            num_workers, max(-(-num_workers // len(machines)), max(machines) // num_threads)
        ),
    )
