"""Compares training steps with transformers, and two workers with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from jobs.benchmarks.table import Measured, print_now
from pipeline.detector.config import Precision
from pipeline.detector.variants import VARIANTS, VariantName
from pipeline.errors import InputError
from pipeline.fields import Count, Names, Range, each_of, one_of


@dataclass(frozen=True)
class TrainBenchmark:
    """Settings of `bonafide benchmark train`; training is on noise."""

    device: Literal["cpu", "cuda"] = "cpu"
    variant: VariantName = "xlsr_300m"
    """Variant that is compared with transformers."""
    precisions: Annotated[Names, each_of("precision", get_args(Precision))] = Names(["fp32", "bf16"])
    """Precisions to measure: fp32, tf32, bf16, fp16."""
    num_utterances: Annotated[int, Range(1, 10_000)] = 2
    """Utterances in a batch."""
    seconds: Annotated[float, Range(0.025, 3600)] = 2.0
    """Length of the longest utterance."""
    num_steps: Count = 12
    """Measured steps of bonafide and of transformers, which take turns; the fastest step of each counts."""
    num_threads: Annotated[int, Range(1, 1000)] = 1
    """CPU threads of each process."""
    ranks_variant: Annotated[str, one_of("variant", ("", *VARIANTS))] = "w2v_small"
    """Variant that one and two workers train; empty: skip this measurement."""


def measure(config: TrainBenchmark) -> Iterator[Measured]:
    """Measure bonafide and transformers in each precision, then one worker and two.

    Raises:
        InputError: a setting is unknown, or the batch does not fit into memory.
    """
    for precision in config.precisions:
        print_now(f"{config.variant} {precision}: bonafide and transformers alternate")
        ours, theirs = run(config, config.variant, precision, "--peer", "off,on")
        shares = ", ".join(f"{name} {share:.0%}" for name, share in ours["shares"].items())
        yield Measured(f"{config.variant} {precision}", speed(ours), shares)
        ratio = f"bonafide is {theirs['step_s'] / ours['step_s']:.2f} × as fast"
        if config.device == "cpu":
            ratio += f", {theirs['processor_s'] / ours['processor_s']:.2f} × by processor time"
        yield Measured(f"transformers {precision}", speed(theirs), ratio)
        peaks = []
        for peer in ("off", "on"):
            print_now(f"peak memory of {'transformers' if peer == 'on' else 'bonafide'}")
            peaks += run(config, config.variant, precision, "--peer", peer, "--steps", "1")
        memory = [f"{result['peak_gib']:.1f} GiB" for result in peaks]
        yield Measured(f"peak memory {precision}", memory[0], f"transformers {memory[1]}")
    if config.ranks_variant:
        print_now(f"{config.ranks_variant}: one worker, then two")
        one, two = run(config, config.ranks_variant, config.precisions[0], "--ranks", "1,2")
        yield Measured(f"{config.ranks_variant}, 1 worker", speed(one), "")
        ratio = f"{two['audio_s_per_s'] / one['audio_s_per_s']:.2f} × one worker"
        yield Measured(f"{config.ranks_variant}, 2 workers", speed(two), ratio)


def run(config: TrainBenchmark, variant: str, precision: str, *arguments: str) -> list[dict[str, Any]]:
    """Run `python -m jobs.benchmarks.detector` in a process, and return one result per case.

    Raises:
        InputError: the command rejected its arguments, or a case ran out of memory.
    """
    arguments = (
        *("-m", "jobs.benchmarks.detector", "--json", "--device", config.device, "--variants", variant),
        *("--precision", precision, "--utterances", str(config.num_utterances)),
        *("--seconds", str(config.seconds), "--steps", str(config.num_steps), "--compile", "off"),
        *("--activation-checkpointing", "off", "--threads", str(config.num_threads), *arguments),
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(config.num_threads)}
    process = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)  # noqa: S603
    if process.returncode == 2:
        raise InputError(process.stderr.strip().splitlines()[-1])
    process.check_returncode()
    results = [json.loads(line) for line in process.stdout.splitlines() if line.startswith(("{", "null"))]
    if None in results:
        raise InputError(f"{variant} does not fit into memory; measure a smaller batch or variant")
    return results


def speed(result: dict[str, Any]) -> str:
    """Format audio seconds per second and operations per second."""
    return f"{result['audio_s_per_s']:.2f} s of audio/s, {result['tflops'] * 1000:.0f} GFLOP/s"
