"""Measure how much of a machine `bonafide score` uses: beside a bare loop over the same files and network.

The bare loop decodes, sorts by length, pads and computes; it writes nothing and survives nothing. It is measured with
one process on all cores and with more processes, in batches of several sizes; then the fastest of these takes turns
with the job. Batches of one are the way of the published evaluation script.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.benchmarks.noise_store import speech_like
from jobs.benchmarks.table import Measured, print_now
from jobs.devices import usable_cpus
from jobs.ray_session import ray_session
from jobs.scoring.audio_files import plan_folder
from jobs.scoring.config import ScoreConfig
from jobs.scoring.details import choose_details
from jobs.scoring.folder import policy_folders, write_plan
from jobs.scoring.loop import score_parts
from jobs.scoring.on_ray import RayExecutor
from jobs.scoring.parts import divide_rows
from jobs.scoring.pool import choose_pool
from pipeline.child_process import ChildProcess, preload
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.variants import VARIANTS, VariantName
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.fields import Count, Positive, Range
from pipeline.storage import Folder

if TYPE_CHECKING:
    from ray import ObjectRef

    from pipeline.detector.network import Detector

Precision = Literal["fp32", "bf16"]

BATCH_SECONDS = {"cpu": (10.0, 30.0), "cuda": (50.0, 100.0, 200.0, 400.0)}
"""Batch sizes of the bare loop, seconds of audio."""

THREADS = (1, 2, 4, 8)
"""Threads of each process of the bare loop, and all cores for one; on a GPU, there is one process."""

ONE = 0.0
"""The batch size of one utterance."""

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

AUDIO, DETECTOR = "audio", "detector.safetensors"
"""Names in the folder of the benchmark."""


@dataclass(frozen=True)
class ScoreBenchmark:
    """Settings of `bonafide benchmark score`; the network has random weights, and the audio is noise."""

    device: Literal["cpu", "cuda"] = "cpu"
    variant: VariantName = "xlsr_300m"
    """Front end of the detector."""
    minutes: Positive = 4.0
    """Amount of audio."""
    min_s: Annotated[float, Range(0.025, 3600)] = 1.0
    """Length of the shortest utterance, seconds."""
    max_s: Annotated[float, Range(0.025, 3600)] = 15.0
    """Length of the longest utterance, seconds."""
    rounds: Count = 3
    """How often each bare loop is run, of which the fastest run counts; and how often the job and the fastest bare loop
    take turns, of which the median ratio counts."""

    def __post_init__(self) -> None:
        if self.min_s > self.max_s:
            raise InputError(f"--score.min-s {self.min_s} is more than --score.max-s {self.max_s}")


@dataclass(frozen=True)
class BareLoop:
    """How many processes compute, and how each does."""

    num_processes: int
    num_threads: int
    batch_seconds: float

    def __str__(self) -> str:
        batch = "of one" if self.batch_seconds == ONE else f"of {self.batch_seconds:.0f} s"
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        return f"{self.num_processes} × {threads}, batches {batch}"


def measure(config: ScoreBenchmark, folder: Path) -> Iterator[Measured]:
    """Measure bare loops, then the job beside the fastest one, in float32 and in bf16."""
    from pipeline.detector.checkpoint import load_detector
    from pipeline.detector.flops import forward_flops

    lengths = make_files(config, folder / AUDIO)
    make_detector(config.variant, folder / DETECTOR)
    audio_s = sum(lengths) / SAMPLE_RATE
    gflop_per_s = forward_flops(VARIANTS[config.variant], np.array(lengths)).total.sum() / 1e9 / audio_s
    print_now(f"{len(lengths)} files of {config.min_s:g} to {config.max_s:g} s, {audio_s / 60:.1f} min")

    speeds: dict[BareLoop, float] = {}
    for num_processes, loops in itertools.groupby(bare_loops(config.device), lambda loop: loop.num_processes):
        with Processes(num_processes, config.device, folder) as processes:
            for loop in loops:
                speeds[loop] = audio_s / min(processes.run(loop, "fp32") for _ in range(config.rounds))
                print_now(f"bare loop, {loop}: {speeds[loop]:.2f} × real time")
    fastest = max(speeds, key=lambda loop: speeds[loop])
    for loop, speed in speeds.items():
        remark = f"{speed / speeds[fastest]:.2f} of the fastest" if loop != fastest else "the fastest"
        yield Measured(f"bare loop, {loop}", f"{speed:.2f} × real time", remark)

    detector = load_detector(folder / DETECTOR).detector
    scores = {}
    with ray_session():
        for precision in PRECISIONS:
            job = Job(config, precision, detector, folder)
            with Processes(fastest.num_processes, config.device, folder) as processes:
                speed, ratios = take_turns(job, processes, fastest, audio_s, config.rounds)
            scores[precision] = job.scores()
            peak = matrix_gflops(config.device, precision)
            rate = speed * gflop_per_s
            yield Measured(
                f"bonafide score, {precision}",
                f"{speed:.2f} × real time",
                f"{statistics.median(ratios):.2f} of the fastest bare loop ({min(ratios):.2f} to {max(ratios):.2f})",
            )
            yield Measured(
                f"operations, {precision}",
                f"{rate:.0f} GFLOP/s",
                f"{rate / peak:.0%} of large matrix products alone",
            )
    decoding_s = decode_all(folder / AUDIO)
    yield Measured("decoding", f"{audio_s / decoding_s:.0f} × real time", "one core")
    difference = np.abs(scores["bf16"] - scores["fp32"])
    yield Measured(
        "scores in bf16",
        f"{difference.max():.3f} at most",
        f"away from float32, {np.median(difference):.3f} in the median; their spread is {scores['fp32'].std():.3f}",
    )


def bare_loops(device: str) -> list[BareLoop]:
    """The bare loops to measure; those of as many processes follow each other."""
    if device == "cuda":
        return [BareLoop(1, 1, seconds) for seconds in (ONE, *BATCH_SECONDS[device])]
    num_cpus = usable_cpus()
    threads = sorted({num for num in THREADS if num < num_cpus} | {num_cpus}, reverse=True)
    return [
        BareLoop(num_cpus // num_threads, num_threads, seconds)
        for num_threads in threads
        for seconds in (ONE, *BATCH_SECONDS[device])
    ]


def take_turns(
    job: Job, processes: Processes, loop: BareLoop, audio_s: float, rounds: int
) -> tuple[float, list[float]]:
    """Measure the job between two runs of a bare loop, several times.

    Returns:
        The median speed of the job, and its ratio to that of its neighbours in each round.
    """
    speeds, ratios = [], []
    before = audio_s / processes.run(loop, job.precision)
    for number in range(rounds):
        speed = audio_s / job.run()
        after = audio_s / processes.run(loop, job.precision)
        speeds.append(speed)
        ratios.append(speed / statistics.harmonic_mean([before, after]))
        print_now(
            f"{job.precision}, round {number + 1}: {speed:.2f} × real time, {ratios[-1]:.3f} of the bare loop"
        )
        before = after
    return statistics.median(speeds), ratios


class Processes:
    """The processes of a bare loop; each has loaded the detector and its share of the files. A context."""

    def __init__(self, num_processes: int, device: str, folder: Path) -> None:
        files = sorted((folder / AUDIO).iterdir(), key=lambda file: file.stat().st_size)
        preload((__name__, "pipeline.detector.scoring"))
        self._children = [ChildProcess("forkserver") for _ in range(num_processes)]
        loaded = [
            child.submit(_load, folder / DETECTOR, files[number::num_processes], device)
            for number, child in enumerate(self._children)
        ]
        for call in loaded:
            call.result()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for child in self._children:
            child.kill()

    def run(self, loop: BareLoop, precision: Precision) -> float:
        """Score all files once; returns the seconds that it took."""
        started = time.perf_counter()
        for call in [child.submit(_run, loop, precision) for child in self._children]:
            call.result()
        return time.perf_counter() - started


class _Bare:
    """One process of a bare loop."""

    def __init__(self, detector: Path, files: Sequence[Path], device: str) -> None:
        import torch

        from pipeline.detector.checkpoint import load_detector

        self._device = torch.device(device)
        self._detector = load_detector(detector).detector.to(self._device)
        self._files = files

    def run(self, loop: BareLoop, precision: Precision) -> None:
        """Decode all files, then score them in batches of similar length."""
        import soundfile
        import torch

        from pipeline.detector.network import normalise
        from pipeline.detector.precision import autocast

        torch.set_num_threads(loop.num_threads)
        waveforms = [soundfile.read(file, dtype="float32")[0] for file in self._files]
        waveforms.sort(key=len, reverse=True)
        with torch.inference_mode(), autocast(self._device, precision):
            begin = 0
            while begin < len(waveforms):
                longest = len(waveforms[begin])
                batch = waveforms[begin : begin + max(1, int(loop.batch_seconds * SAMPLE_RATE // longest))]
                padded_BT = np.zeros((len(batch), longest), np.float32)
                for row_T, waveform in zip(padded_BT, batch, strict=True):
                    row_T[: len(waveform)] = waveform
                num_samples_B = torch.tensor([len(waveform) for waveform in batch])
                waveform_BT = normalise(torch.from_numpy(padded_BT).to(self._device), num_samples_B)
                self._detector(waveform_BT, num_samples_B).logits.cpu()
                begin += len(batch)


_bare: _Bare


def _load(detector: Path, files: Sequence[Path], device: str) -> None:
    global _bare
    _bare = _Bare(detector, files, device)


def _run(loop: BareLoop, precision: Precision) -> None:
    _bare.run(loop, precision)


class TimedExecutor(RayExecutor):
    """An executor that knows when its first scorer was ready."""

    started_at = float("inf")

    def memory_limit(self, call: ObjectRef[float]) -> float:
        """See `Executor`."""
        limit = super().memory_limit(call)
        self.started_at = min(self.started_at, time.perf_counter())
        return limit


class Job:
    """Scoring by `bonafide score` on the connected Ray."""

    def __init__(
        self, config: ScoreBenchmark, precision: Precision, detector: Detector, folder: Path
    ) -> None:
        self.precision = precision
        self._folder, self._detector, self._num_runs = folder, detector, 0
        self._config = ScoreConfig(
            checkpoint=str(folder / DETECTOR),
            out=str(folder / f"scores-{precision}"),
            audio=str(folder / AUDIO),
            device=config.device,
            precision=precision,
        )

    def run(self) -> float:
        """Score all files once; returns the seconds since the first scorer was ready."""
        self._num_runs += 1
        out = self._out()
        plan = plan_folder(Folder(self._config.audio), out)
        outs = policy_folders(out, self._config.window)
        division = divide_rows(plan.rows, self._config.part_seconds, outs)
        write_plan(out, plan.rows, division.sizes)
        executor = TimedExecutor(plan.audio_source, out, self._detector)
        details = choose_details(self._config, self._detector, plan.audio_source.key)
        pool = choose_pool(self._config, division.missing_seconds, executor.machines(), details.wanted)
        score_parts(plan, division, outs, {}, details, executor, pool)
        return time.perf_counter() - executor.started_at

    def scores(self) -> NDArray[np.float32]:
        """The scores of the last run, in the order of the files."""
        table: pa.Table = pq.read_table(f"{self._out().uri}/{layout.PARTS}", columns=["path", "score"])
        scores_N: NDArray[np.float32] = table.sort_by("path")["score"].to_numpy()
        return scores_N

    def _out(self) -> Folder:
        return Folder(f"{self._config.out}-{self._num_runs}")


def matrix_gflops(device: str, precision: Precision) -> float:
    """The speed of one large matrix product after another, the most that a transformer can reach here."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rows, inputs, outputs = 1500, 1024, 4096  # 30 s of frames, and the feed-forward layer of xlsr_300m
    left = torch.randn(rows, inputs, device=device).to(dtype)
    right = torch.randn(inputs, outputs, device=device).to(dtype)
    best_s = float("inf")
    for _ in range(50):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * rows * inputs * outputs / best_s / 1e9


def decode_all(folder: Path) -> float:
    """The seconds that one core takes to decode all files."""
    import soundfile

    started = time.perf_counter()
    for file in folder.iterdir():
        soundfile.read(file, dtype="float32")
    return time.perf_counter() - started


def make_files(config: ScoreBenchmark, folder: Path) -> list[int]:
    """Write 16 kHz FLAC files; returns their lengths in samples."""
    from pipeline.data.audio.flac import encode_flac, quantise

    folder.mkdir()
    rng = np.random.default_rng(0)
    speech = speech_like(rng, round(2 * config.max_s * SAMPLE_RATE))
    lengths: list[int] = []
    while sum(lengths) < config.minutes * 60 * SAMPLE_RATE:
        lengths.append(round(rng.uniform(config.min_s, config.max_s) * SAMPLE_RATE))
        begin = rng.integers(len(speech) - lengths[-1])
        (folder / f"{len(lengths):06d}.flac").write_bytes(
            encode_flac(quantise(speech[begin : begin + lengths[-1]]))
        )
    return lengths


def make_detector(variant: str, file: Path) -> None:
    """Write a detector with random weights."""
    import torch

    from pipeline.detector.checkpoint import save_detector
    from pipeline.detector.network import Detector, DetectorConfig

    torch.manual_seed(0)
    save_detector(Detector(DetectorConfig(VARIANTS[variant])), file, {})
