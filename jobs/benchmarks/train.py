"""A training step against transformers' of the same shape, and two workers against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobs.benchmarks.table import Measured, say
from pipeline.config import Names
from pipeline.errors import InputError


@dataclass(frozen=True)
class TrainBenchmark:
    """What to train, on how much noise."""

    device: str = "cpu"
    """cpu or cuda."""
    variant: str = "xlsr_300m"
    """Shape of the detector that is held against transformers."""
    precisions: Names = Names(["fp32", "bf16"])
    """fp32, tf32, bf16 or fp16, one after the other."""
    num_utterances: int = 2
    """In a batch."""
    seconds: float = 2.0
    """Of the longest utterance."""
    num_steps: int = 12
    """Steps that are measured on each side, by turns; the fastest counts."""
    num_threads: int = 1
    """Of each process on a CPU."""
    ranks_variant: str = "w2v_small"
    """Shape of the detector that one and two workers train; empty leaves them out."""


def measure(config: TrainBenchmark) -> Iterator[Measured]:
    """Ours and transformers' in each precision, then one worker and two."""
    for precision in config.precisions:
        say(f"{config.variant} {precision}, ours and transformers by turns")
        ours, theirs = run(config, config.variant, precision, "--peer", "off,on")
        shares = ", ".join(f"{name} {share:.0%}" for name, share in ours["shares"].items())
        yield Measured(f"{config.variant} {precision}", speed(ours), shares)
        ratio = f"ours is {theirs['step_s'] / ours['step_s']:.2f} × as fast"
        if config.device == "cpu":
            ratio += f", {theirs['processor_s'] / ours['processor_s']:.2f} × by processor time"
        yield Measured(f"the same, transformers {precision}", speed(theirs), ratio)
        peaks = []
        for peer in ("off", "on"):
            say(f"peak memory of {'transformers' if peer == 'on' else 'ours'}")
            peaks += run(config, config.variant, precision, "--peer", peer, "--steps", "1")
        memory = [f"{result['peak_gib']:.1f} GiB" for result in peaks]
        yield Measured(f"peak memory {precision}", memory[0], f"transformers {memory[1]}")
    if config.ranks_variant:
        say(f"{config.ranks_variant}, one worker and two")
        one, two = run(config, config.ranks_variant, config.precisions[0], "--ranks", "1,2")
        yield Measured(f"{config.ranks_variant}, 1 worker", speed(one), "gradients shared with nobody")
        ratio = f"{two['audio_s_per_s'] / one['audio_s_per_s']:.2f} × one"
        yield Measured(f"{config.ranks_variant}, 2 workers", speed(two), ratio)


def run(config: TrainBenchmark, variant: str, precision: str, *words: str) -> list[dict[str, Any]]:
    """What `python -m jobs.benchmarks.detector` measures in a process of its own, one result a case.

    Raises:
        InputError: it refused, with its reason.
    """
    words = (
        *("-m", "jobs.benchmarks.detector", "--json", "--device", config.device, "--variants", variant),
        *("--precision", precision, "--utterances", str(config.num_utterances)),
        *("--seconds", str(config.seconds), "--steps", str(config.num_steps), "--compile", "off"),
        *("--activation-checkpointing", "off", "--threads", str(config.num_threads), *words),
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(config.num_threads)}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)  # noqa: S603
    if done.returncode == 2:
        raise InputError(done.stderr.strip().splitlines()[-1])
    done.check_returncode()
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "null"))]
    if None in results:
        raise InputError(f"{variant} does not fit; measure a smaller batch or variant")
    return results


def speed(result: dict[str, Any]) -> str:
    """Audio seconds and operations, per second."""
    return f"{result['audio_s_per_s']:.2f} s of audio/s, {result['tflops'] * 1000:.0f} GFLOP/s"
