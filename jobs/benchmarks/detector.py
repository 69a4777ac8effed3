"""How fast a detector trains on this machine; torch alone.

    python -m jobs.benchmarks.detector --device cuda --variants xlsr_300m,xlsr_1b,xlsr_2b --precision bf16

Steps run on noise, nothing is read or written. Of the measured steps the fastest counts: whatever else runs on a
machine can only make a step slower. Operations are those of the audio (flops.py), without padding.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product, repeat
from pathlib import Path
from typing import Any, cast, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.detector.config import Precision, Strategy, TrainingConfig
from pipeline.detector.dry_run import DryRun, Noise, make_noise, prepare_dry_run
from pipeline.detector.flops import peak_tflops, training_flops
from pipeline.detector.meter import Meter, StepRequests
from pipeline.detector.network import Detector
from pipeline.detector.ranks import run_ranks
from pipeline.detector.state import TrainingProgress
from pipeline.detector.trainer import Trainer
from pipeline.detector.variants import VARIANTS
from pipeline.errors import InputError

PHASES = ("forward", "backward", "optimiser")
NUM_WARM = 2


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    variant: str
    precision: Precision
    num_utterances: int
    seconds: float
    """Of the longest utterance; the shortest is a tenth shorter."""
    compile: bool = False
    activation_checkpointing: bool = False
    is_peer: bool = False
    """Measure transformers' classifier of the same shape instead."""
    num_ranks: int = 0
    """Processes that take real steps together; 0: the bare step, alone in this process."""
    strategy: Strategy = "ddp"

    def training(self) -> TrainingConfig:
        """The settings of a training like this."""
        return TrainingConfig(
            precision=self.precision,
            compile=self.compile,
            activation_checkpointing=self.activation_checkpointing,
            strategy=self.strategy,
        )


@dataclass(frozen=True)
class Speed:
    """What was measured of a case."""

    step_s: float
    processor_s: float
    """Seconds that the threads of this process worked in a step, at least: what a busy machine does not change."""
    audio_s_per_s: float
    """Of all ranks together."""
    tflops: float
    """Of each rank."""
    mfu: float | None
    """None where the peak of the device is not known."""
    shares: dict[str, float]
    """Of the forward pass, the backward pass, and clipping with the optimiser; empty for ranks."""
    peak_gib: float | None
    """GPU memory of the measured steps; on a CPU all that the process ever had. None beside another case."""


def measure(
    together: Sequence[Case], device: torch.device, num_steps: int, profile: Path | None = None
) -> list[Speed]:
    """Take some steps to get warm and some to measure, by turns: what slows a machine down then meets all cases.

    profile: where to write what one more step of the last case consists of.
    """
    torch.manual_seed(0)
    batches = [make_noise(case.num_utterances, case.seconds, device) for case in together]
    trials = [
        _peer(case, device) if case.is_peer else prepare_dry_run(_detector(case, device), case.training())
        for case in together
    ]
    for _ in range(NUM_WARM):
        for trial, batch in zip(trials, batches, strict=True):
            trial.step(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rounds = [list(map(_time_step, trials, batches)) for _ in range(num_steps)]
    if profile is not None:
        _write_profile(trials[-1], batches[-1], profile)
    speeds = []
    for case, batch, timed in zip(together, batches, zip(*rounds, strict=True), strict=True):
        phases = min((phases for phases, _ in timed), key=sum)
        processor_s = min(seconds for _, seconds in timed)
        shares = {name: phase / sum(phases) for name, phase in zip(PHASES, phases, strict=True)}
        speed = _speed(case, device, batch, sum(phases), processor_s, shares)
        speeds.append(speed if len(together) == 1 else replace(speed, peak_gib=None))
    return speeds


def measure_ranks(case: Case, device: torch.device, num_steps: int) -> Speed:
    """Measure real steps, with what ranks tell each other, in as many processes as there are ranks."""
    with tempfile.TemporaryDirectory(prefix="bonafide-speed-") as folder:
        path = Path(folder, "speed.json")
        run_ranks(_time_rank, (path, case, device.type, num_steps), case.num_ranks, device.type)
        return Speed(**json.loads(path.read_text(encoding="utf-8")))


def _time_rank(path: Path, case: Case, kind: str, num_steps: int) -> None:
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    torch.manual_seed(0)
    batch = make_noise(case.num_utterances, case.seconds, device)
    config = case.training()
    trainer = Trainer(_detector(case, device), lambda *_: repeat(batch), config)
    meter, times, worked = Meter(case.num_ranks, device, config), [], []
    for _ in range(NUM_WARM + num_steps):
        times.append(-time.perf_counter())
        worked.append(-time.process_time())
        trainer.step(
            TrainingProgress(), meter, StepRequests()
        )  # it ends with a sum over ranks that the host waits for
        times[-1] += time.perf_counter()
        worked[-1] += time.process_time()
    if dist.get_rank() == 0:
        speed = _speed(case, device, batch, min(times[NUM_WARM:]), min(worked[NUM_WARM:]), {})
        path.write_text(json.dumps(asdict(speed)), encoding="utf-8")


def _detector(case: Case, device: torch.device) -> Detector:
    if case.variant not in VARIANTS:
        raise InputError(f"unknown variant {case.variant!r}; known: {', '.join(VARIANTS)}")
    with device:
        return Detector(VARIANTS[case.variant])


def _peer(case: Case, device: torch.device) -> DryRun:
    """The same step with transformers' network of the same shape."""
    try:
        from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification
    except ImportError as error:
        raise InputError("transformers is not installed; leave the comparison out") from error
    from pipeline.detector.huggingface import transformers_settings

    settings = Wav2Vec2Config.from_dict(transformers_settings(VARIANTS[case.variant]))
    with device:
        model = Wav2Vec2ForSequenceClassification(settings).train()
    if case.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if case.compile:
        for layer in model.wav2vec2.encoder.layers:
            layer.compile(dynamic=True)

    def loss_of(batch: Noise) -> Tensor:
        num_samples_B = batch.num_samples.to(device)
        is_valid_BT = torch.arange(batch.waveform.shape[1], device=device) < num_samples_B[:, None]
        output = model(batch.waveform, attention_mask=is_valid_BT.long(), labels=batch.label)
        loss: Tensor = output.loss
        return loss

    return DryRun(loss_of, list(model.parameters()), case.training())


def _time_step(trial: DryRun, batch: Noise) -> tuple[list[float], float]:
    """Seconds of each phase of a step, and processor seconds of the whole."""
    worked = time.process_time()
    if trial.device.type == "cuda":
        events = [_record()]
        trial.step(batch, lambda _: events.append(_record()))
        torch.cuda.synchronize(trial.device)
        phases = [one.elapsed_time(other) / 1000 for one, other in pairwise(events)]
        return phases, time.process_time() - worked
    times = [time.perf_counter()]
    trial.step(batch, lambda _: times.append(time.perf_counter()))
    return [other - one for one, other in pairwise(times)], time.process_time() - worked


def _record() -> torch.cuda.Event:
    event: torch.cuda.Event = cast("Any", torch.cuda.Event)(enable_timing=True)
    event.record()
    return event


def _speed(
    case: Case,
    device: torch.device,
    batch: Noise,
    step_s: float,
    processor_s: float,
    shares: dict[str, float],
) -> Speed:
    tflops = training_flops(VARIANTS[case.variant], batch.num_samples.numpy()) / step_s / 1e12
    peak = None
    if device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(device), case.precision)
    return Speed(
        step_s=step_s,
        processor_s=processor_s,
        audio_s_per_s=max(1, case.num_ranks) * batch.audio_s / step_s,
        tflops=tflops,
        mfu=tflops / peak if peak else None,
        shares=shares,
        peak_gib=_peak_gib(device),
    )


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _write_profile(trial: DryRun, batch: Noise, path: Path) -> None:
    is_cuda = trial.device.type == "cuda"
    with torch.profiler.profile(acc_events=True) as profiler:
        trial.step(batch)
        if is_cuda:
            torch.cuda.synchronize(trial.device)
    order = "self_cuda_time_total" if is_cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60)
    path.write_text(table + "\n", encoding="utf-8")


def line(case: Case, speed: Speed | None) -> str:
    """One line of the table; None: the memory did not suffice."""
    name = f"{'transformers ' if case.is_peer else ''}{case.variant}"
    how = [case.precision, *(["compiled"] if case.compile else [])]
    how += ["checkpointed"] if case.activation_checkpointing else []
    how += [f"{case.num_ranks} × {case.strategy}"] if case.num_ranks else []
    start = f"{name:<24} {' '.join(how):<28}"
    if speed is None:
        return f"{start} out of memory"
    shares = " ".join(f"{name} {share:.0%}" for name, share in speed.shares.items())
    memory = f"{speed.peak_gib:6.1f} GiB" if speed.peak_gib is not None else ""
    mfu = f"{speed.mfu:6.1%} MFU" if speed.mfu is not None else ""
    return (
        f"{start} {speed.step_s * 1000:9.1f} ms  {speed.audio_s_per_s:8.1f} audio s/s  "
        f"{speed.tflops:7.2f} TFLOP/s {mfu}  {memory}  {shares}"
    ).rstrip()


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benchmarks.detector", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", default="xlsr_300m", help="names, separated by commas")
    parser.add_argument("--precision", default="bf16", help=f"some of {', '.join(get_args(Precision))}")
    parser.add_argument("--utterances", type=int, default=10, help="in the batch of a rank")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the longest utterance")
    parser.add_argument("--steps", type=int, default=8, help="measured, after some to get warm")
    parser.add_argument("--compile", default="off,on", help="off, on or both")
    parser.add_argument("--activation-checkpointing", default="off,on", help="off, on or both")
    parser.add_argument(
        "--ranks", default="0", help="numbers of processes that step together; 0: the bare step"
    )
    parser.add_argument("--strategy", default="ddp", choices=get_args(Strategy), help="of ranks")
    parser.add_argument("--peer", default="off", help="on: transformers; off: ours; or both")
    parser.add_argument("--profile", type=Path, help="write torch's profile of a step of the last case")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: as many as torch takes")
    parser.add_argument("--json", action="store_true", help="print each result as JSON")
    return parser.parse_args(words)


def cases(options: argparse.Namespace) -> list[list[Case]]:
    """Every combination that the command line asks for; ours and a peer belong together."""
    switches = {"off": False, "on": True}
    for name in ("compile", "activation_checkpointing", "peer"):
        unknown = set(getattr(options, name).split(",")) - switches.keys()
        if unknown:
            raise InputError(f"--{name.replace('_', '-')} knows off and on, not {', '.join(sorted(unknown))}")
    unknown = set(options.precision.split(",")) - set(get_args(Precision))
    if unknown:
        raise InputError(
            f"--precision knows {', '.join(get_args(Precision))}, not {', '.join(sorted(unknown))}"
        )
    asked = []
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
            compile=switches[is_compiled],
            activation_checkpointing=switches[is_checkpointing],
            num_ranks=int(num_ranks),
            strategy=options.strategy,
        )
        peers = ["off"] if case.num_ranks else options.peer.split(",")
        asked.append([replace(case, is_peer=switches[peer]) for peer in peers])
    return asked


def main(words: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, one line each."""
    options = parse(words)
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes of ranks
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    try:
        asked = cases(options)
        if not options.json:
            print(f"torch {torch.__version__} · {device.type}, {name} · ", end="")
            print(
                f"{options.utterances} × {options.seconds:g} s, fastest of {options.steps} steps", flush=True
            )
        for together in asked:
            speeds = _measure(together, device, options, is_last=together is asked[-1])
            torch.compiler.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            for case, speed in zip(together, speeds, strict=True):
                result = json.dumps(asdict(speed) if speed else None)
                print(result if options.json else line(case, speed), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure(
    together: list[Case], device: torch.device, options: argparse.Namespace, is_last: bool
) -> Sequence[Speed | None]:
    """Measure one combination; None where the memory does not suffice."""
    try:
        if together[0].num_ranks:
            return [measure_ranks(together[0], device, options.steps)]
        return measure(together, device, options.steps, options.profile if is_last else None)
    except torch.cuda.OutOfMemoryError:
        return [None] * len(together)


if __name__ == "__main__":
    sys.exit(main())
