"""Measure how fast a detector trains on this machine.

    python -m jobs.benchmarks.detector --device cuda --variants xlsr_300m,xlsr_1b,xlsr_2b --precision bf16

Needs only torch and NumPy, so it runs on a machine where bonafide is not installed. Trains on noise; reads no data.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import get_args

import torch

from jobs.benchmarks.training_step import Case, Speed, measure, measure_ranks
from pipeline.detector.config import Precision, Strategy
from pipeline.detector.variants import HeadName
from pipeline.errors import InputError

SWITCHES = {"off": False, "on": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line for each configuration of the command line; return the exit status."""
    options = parse(argv)
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes of --ranks
    try:
        groups = plan_cases(options)
        if not options.json:
            print(describe_machine(device, options), flush=True)
        for cases in groups:
            speeds = _measure(cases, device, options, is_last=cases is groups[-1])
            torch.compiler.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            for case, speed in zip(cases, speeds, strict=True):
                result = json.dumps(asdict(speed) if speed else None)
                print(result if options.json else format_line(case, speed), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benchmarks.detector", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", default="xlsr_300m", help="comma-separated variants")
    parser.add_argument(
        "--precision", default="bf16", help=f"comma-separated: {', '.join(get_args(Precision))}"
    )
    parser.add_argument("--utterances", type=int, default=10, help="utterances in the batch of each rank")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the longest utterance")
    parser.add_argument("--steps", type=int, default=8, help="measured steps, after the warm-up")
    parser.add_argument("--compile", default="off,on", help="off, on or off,on")
    parser.add_argument("--activation-checkpointing", default="off,on", help="off, on or off,on")
    parser.add_argument(
        "--ranks", default="0", help="comma-separated numbers of processes that train together; 0: a dry run"
    )
    parser.add_argument("--strategy", default="ddp", choices=get_args(Strategy), help="used by --ranks")
    parser.add_argument("--head", default="mean_linear", choices=get_args(HeadName))
    parser.add_argument("--lora-rank", type=int, default=0, help="rank of adapters; 0: train all weights")
    parser.add_argument("--peer", default="off", help="off: our detector; on: transformers; or off,on")
    parser.add_argument("--profile", type=Path, help="file for torch's profile of one step of the last case")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument("--json", action="store_true", help="print each result as JSON")
    return parser.parse_args(argv)


def plan_cases(options: argparse.Namespace) -> list[list[Case]]:
    """List every combination of the options; a detector and its peer form one group.

    Raises:
        InputError: an option has an unknown value.
    """
    for name in ("compile", "activation_checkpointing", "peer"):
        unknown = set(getattr(options, name).split(",")) - SWITCHES.keys()
        if unknown:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} does not accept {', '.join(sorted(unknown))}; known: off, on")
    unknown = set(options.precision.split(",")) - set(get_args(Precision))
    if unknown:
        known = ", ".join(get_args(Precision))
        raise InputError(f"--precision does not accept {', '.join(sorted(unknown))}; known: {known}")
    groups = []
    for variant, precision, is_compiled, is_checkpointing, num_ranks in product(
        options.variants.split(","),
        options.precision.split(","),
        options.compile.split(","),
        options.activation_checkpointing.split(","),
        options.ranks.split(","),
    ):
        case = Case(
            variant=variant,
            precision=precision,
            num_utterances=options.utterances,
            seconds=options.seconds,
            compile=SWITCHES[is_compiled],
            activation_checkpointing=SWITCHES[is_checkpointing],
            num_ranks=int(num_ranks),
            strategy=options.strategy,
            head=options.head,
            lora_rank=options.lora_rank,
        )
        peers = ["off"] if case.num_ranks else options.peer.split(",")
        groups.append([replace(case, is_peer=SWITCHES[peer]) for peer in peers])
    return groups


def describe_machine(device: torch.device, options: argparse.Namespace) -> str:
    """Format the first line of the output: torch version, device and batch."""
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{torch.get_num_threads()} threads"
    return (
        f"torch {torch.__version__} · {device.type}, {name} · {options.utterances} × {options.seconds:g} s, "
        f"fastest of {options.steps} steps"
    )


def format_line(case: Case, speed: Speed | None) -> str:
    """Format one line of the table; `speed` is None if the case ran out of memory."""
    name = f"{'transformers ' if case.is_peer else ''}{case.variant}"
    settings = [case.precision, *(["compiled"] if case.compile else [])]
    settings += [case.head] if case.head != "mean_linear" else []
    settings += [f"rank {case.lora_rank}"] if case.lora_rank else []
    settings += ["checkpointed"] if case.activation_checkpointing else []
    settings += [f"{case.num_ranks} × {case.strategy}"] if case.num_ranks else []
    start = f"{name:<24} {' '.join(settings):<28}"
    if speed is None:
        return f"{start} out of memory"
    shares = " ".join(f"{phase} {share:.0%}" for phase, share in speed.shares.items())
    memory = f"{speed.peak_gib:6.1f} GiB" if speed.peak_gib is not None else ""
    mfu = f"{speed.mfu:6.1%} MFU" if speed.mfu is not None else ""
    return (
        f"{start} {speed.step_s * 1000:9.1f} ms  {speed.audio_s_per_s:8.1f} audio s/s  "
        f"{speed.tflops:7.2f} TFLOP/s {mfu}  {memory}  {shares}"
    ).rstrip()


def _measure(
    cases: list[Case], device: torch.device, options: argparse.Namespace, is_last: bool
) -> Sequence[Speed | None]:
    """Measure one group of cases; return None for each if they run out of GPU memory."""
    try:
        if cases[0].num_ranks:
            return [measure_ranks(cases[0], device, options.steps)]
        return measure(cases, device, options.steps, options.profile if is_last else None)
    except torch.cuda.OutOfMemoryError:
        return [None] * len(cases)


if __name__ == "__main__":
    sys.exit(main())
