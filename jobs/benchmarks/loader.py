"""Measure the training loader against a bare loop and its peers: speed per core, waiting, padding, planning.

Speeds are audio seconds per second of processor time. The loaders take turns for several rounds and the best round
counts, which reduces the influence of other programs on the machine.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.benchmarks import peers
from jobs.benchmarks.augmentations import measure_augmentations
from jobs.benchmarks.noise_store import durations, make_store
from jobs.benchmarks.peers import Batches
from jobs.benchmarks.table import Measured, print_now, timed
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.errors import InputError
from pipeline.fields import Count, Positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.data.loading.batches import TrainingBatches
    from pipeline.data.store.index import Index
    from pipeline.storage import Folder

WARMUP_BATCHES = 8
"""Batches before a measurement, in which workers start and fill their queues."""

CAP_HOURS = 5.0
"""Hours per epoch of each domain in the measurement of a plan with balanced domains."""

ATTACKS_PER_CORPUS = 172
"""Attacks in each of the 29 corpora of a plan; with those of bona fide speech, 5,017 domains."""


@dataclass(frozen=True)
class LoaderBenchmark:
    """Amount of data and number of repetitions."""

    num_utterances: Count = 2000
    """Utterances to generate: noise of 1 to 20 s, log-normal, 5 s on average."""
    rounds: Count = 3
    """Number of runs of each loader; the best one counts."""
    audio_per_s: Positive = 2750.0
    """Audio seconds per second that a simulated training consumes; the default is an estimate for xlsr_300m on an
    H200."""
    plan_rows: Count = 10_000_000
    """Utterances of the largest epoch to plan; 70000000 is all training audio of AntiDeepfake and needs 2.2 GB of
    disk."""


@dataclass(frozen=True)
class Loader:
    """One way to load an epoch."""

    name: str
    num_workers: int
    num_batches: int
    load: Callable[[], Batches]


def measure(config: LoaderBenchmark, folder: Path) -> Iterator[Measured]:
    """Measure loading from local shards, the peers, random access, planning and augmentations."""
    print_now("generating audio and shards")
    store, index = make_store(config.num_utterances, folder)
    print_now(f"{len(index)} utterances, {index.seconds.sum() / 3600:.2f} h")
    planned = planned_loaders(store, index)
    index.save(folder / "index")
    others = peer_loaders(store, index, sorted((folder / "loose").iterdir()))
    yield from measure_speed(config, store, folder / "index", planned + others)
    yield from measure_wait(config, [loader for loader in planned if loader.num_workers])
    print_now("random access")
    yield measure_access(store, index)
    for num_rows in sorted({min(num, config.plan_rows) for num in (1_000_000, 10_000_000, config.plan_rows)}):
        print_now(f"planning an epoch of {num_rows:,} utterances")
        yield from measure_plans(num_rows, folder / "plan")
    print_now("augmentations")
    yield from measure_augmentations(store, index, config.rounds, folder)


def planned_loaders(store: Folder, index: Index) -> list[Loader]:
    """List the loaders of our planned batches: ours with its default settings, and torch's DataLoader."""
    from pipeline.data.loading.batches import TrainingBatches
    from pipeline.data.loading.buckets import BatchConfig

    ours, rivals = [], []
    for num in (0, 1, 2):
        training = TrainingBatches(store, index, BatchConfig(), num_workers=num)
        num_batches = training.plan(0).num_batches
        ours.append(Loader(f"loader, {num} workers", num, num_batches, partial(our_batches, training)))
        if num:
            name = f"our plan and reader in torch's DataLoader, {num} workers"
            rivals.append(Loader(name, num, num_batches, partial(peers.planned_batches, training, num)))
    return ours + rivals


def peer_loaders(store: Folder, index: Index, loose: list[Path]) -> list[Loader]:
    """List the loaders that make batches of their own: WebDataset over the shards, DataLoader over loose files."""
    tars = [store.location(name) for name in index.shards]
    num_batches = len(loose) // peers.BATCH_SIZE
    loaders = []
    for num in (0, 2):
        stream, files = partial(peers.webdataset_batches, tars, num), partial(peers.loose_batches, loose, num)
        loaders.append(Loader(f"webdataset, {num} workers", num, num_batches, stream))
        loaders.append(Loader(f"DataLoader over loose files, {num} workers", num, num_batches, files))
    return loaders


def our_batches(training: TrainingBatches) -> Batches:
    """Load epoch 0 with our loader."""
    return ((batch.waveform, batch.num_samples) for batch in training(0))


def measure_speed(
    config: LoaderBenchmark, store: Folder, index: Path, loaders: list[Loader]
) -> Iterator[Measured]:
    """Run the bare loop and each loader in turn."""
    bare: dict[int, Speed] = {}
    best: dict[str, Speed] = {}
    for number in range(config.rounds):
        for num_processes in (1, 2):
            print_now(f"bare loop, {num_processes} processes, round {number + 1}")
            speed = bare_speed(num_processes, store.uri, index)
            bare[num_processes] = max(bare.get(num_processes, speed), speed, key=per_core)
        for loader in loaders:
            print_now(f"{loader.name}, round {number + 1}")
            speed = loader_speed(loader)
            best[loader.name] = max(best.get(loader.name, speed), speed, key=per_core)
    for num_processes, speed in bare.items():
        yield speed_row(f"bare loop, {num_processes} processes", speed, speed)
    for loader in loaders:
        # Two processes share a cache and memory bandwidth, so two workers are compared with two bare loops.
        yield speed_row(loader.name, best[loader.name], bare[max(1, loader.num_workers)])


def per_core(speed: Speed) -> float:
    """Return the sort key of the best round."""
    return speed.per_core


def speed_row(name: str, speed: Speed, bare: Speed) -> Measured:
    """Format a speed and its ratio to the bare loop."""
    padding = f"; {speed.padding:.1%} padding" if speed.padding else ""
    ratio = f"{speed.per_core / bare.per_core:.2f} of the bare loop; {speed.by_clock:.0f} × by the clock"
    return Measured(name, f"{speed.per_core:.0f} × real time a core", ratio + padding)


@dataclass(frozen=True)
class Speed:
    """Speed of one run."""

    per_core: float
    """Audio seconds per second of processor time, summed over all processes."""
    by_clock: float
    """Audio seconds per second of wall-clock time."""
    padding: float = 0.0
    """Fraction of the batches that is padding."""


def bare_speed(num_processes: int, store: str, index: Path) -> Speed:
    """Run several bare loops at the same time."""
    loops = [start("bare_loop", store, index) for _ in range(num_processes)]
    speeds = [tuple(map(float, loop().split())) for loop in loops]
    return Speed(num_processes / sum(1 / core for core, _ in speeds), sum(clock for _, clock in speeds))


def bare_loop(store: str, folder: str) -> None:
    """Only read and decode; print audio seconds per second of processor time and of wall-clock time."""
    import soundfile

    from pipeline.data.store.index import map_index

    index = map_index(Path(folder))
    files = [os.open(f"{store}/{name}", os.O_RDONLY) for name in index.shards]
    ranges = list(zip(index.shard.tolist(), index.offset.tolist(), index.num_bytes.tolist(), strict=True))
    clock, used = time.perf_counter(), time.process_time()
    for shard, offset, num_bytes in ranges:
        soundfile.read(io.BytesIO(os.pread(files[shard], num_bytes, offset)), dtype="float32")
    clock, used = time.perf_counter() - clock, time.process_time() - used
    audio = float(index.seconds.sum())
    print(audio / used, audio / clock)


def loader_speed(loader: Loader) -> Speed:
    """Time an epoch, without the first batches, during which workers start, and the last, which are prefetched."""
    last = max(1, loader.num_batches - 5 * loader.num_workers - 1)
    first = min(WARMUP_BATCHES, last // 2)
    audio = padded = clock = used = 0.0
    speed = None
    # Load to the end: a DataLoader worker that is stopped while it sends a batch aborts.
    for number, (waveform_BT, num_samples_B) in enumerate(loader.load()):
        audio += float(num_samples_B.sum()) / SAMPLE_RATE
        padded += waveform_BT.numel() / SAMPLE_RATE
        if number == first:
            audio = padded = 0.0
            clock, used = time.perf_counter(), processor_s()
        if number == last:
            used, clock = processor_s() - used, time.perf_counter() - clock
            speed = Speed(audio / max(used, 0.01), audio / clock, 1 - audio / padded)
    if speed is None:
        raise InputError(f"{loader.name}: too few batches to measure; raise num_utterances")
    return speed


def processor_s() -> float:
    """Return the processor time in seconds of this process and its living children."""
    ticks = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            for process in (thread / "children").read_text().split():
                # User and system time are the 12th and 13th field after the name in brackets.
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure_wait(config: LoaderBenchmark, loaders: list[Loader]) -> Iterator[Measured]:
    """Measure the share of time that a simulated training waits for batches, with each loader in turn."""
    waits: dict[str, list[tuple[float, float]]] = {loader.name: [] for loader in loaders}
    for number in range(config.rounds):
        for loader in loaders:
            print_now(
                f"training at {config.audio_per_s:.0f} s of audio per second: {loader.name}, round {number + 1}"
            )
            waits[loader.name].append(wait_once(loader, config.audio_per_s))
    for loader in loaders:
        share, first_s = (min(values) for values in zip(*waits[loader.name], strict=True))
        yield Measured(
            f"waiting: {loader.name}",
            f"{share:.1%} of the time",
            f"at {config.audio_per_s:.0f} audio s/s; first batch after {first_s:.1f} s",
        )


def wait_once(loader: Loader, audio_per_s: float) -> tuple[float, float]:
    """Consume batches at a fixed rate; return the share of time spent waiting and the seconds to the first batch."""
    started = time.perf_counter()
    waited = first_s = 0.0
    batches, number = iter(loader.load()), 0
    while True:
        requested = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - requested
        if batch is None:
            return waited / (time.perf_counter() - started), first_s
        if number == 0:
            first_s = time.perf_counter() - started
        if number == WARMUP_BATCHES:
            waited, started = 0.0, time.perf_counter()
        time.sleep(float(batch[1].sum()) / SAMPLE_RATE / audio_per_s)
        number += 1


def measure_access(store: Folder, index: Index) -> Measured:
    """Read utterances in random order from the shards, without decoding them."""
    import numpy as np

    files = [os.open(store.location(name), os.O_RDONLY) for name in index.shards]
    rows = np.random.default_rng(0).permutation(len(index))
    ranges = np.stack([index.shard, index.num_bytes, index.offset], axis=1)[rows].tolist()

    def read() -> None:
        for shard, num_bytes, offset in ranges:
            os.pread(files[shard], num_bytes, offset)

    seconds = min(timed(read) for _ in range(3))
    for file in files:
        os.close(file)
    return Measured("random access", f"{len(ranges) / seconds:.0f} utterances/s", "pread, one core")


def measure_plans(num_rows: int, folder: Path) -> Iterator[Measured]:
    """Plan an epoch over an index that the ranks of a machine share, also with balanced domains; in new processes."""
    folder = folder / str(num_rows)
    start("write_index_of_size", num_rows, folder)()
    for title, cap_hours in (
        (f"plan of {num_rows:,}", "inf"),
        (f"capped plan of {num_rows:,}", f"{CAP_HOURS}"),
    ):
        seconds, peak_gib, own_gib, jump_ms, padding = map(float, start("plan", folder, cap_hours)().split())
        yield Measured(
            title,
            f"{seconds:.1f} s, {peak_gib:.2f} GiB",
            f"{own_gib:.2f} GiB of it for each further rank; {jump_ms:.0f} ms to any batch; "
            f"{padding:.1%} padding",
        )


def start(function: str, *arguments: str | int | Path) -> Callable[[], str]:
    """Start a function of this module in a new process; return a function that waits for its output."""
    program = f"import sys; from jobs.benchmarks import loader; loader.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - fixed command

    def wait() -> str:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{function} failed with exit code {process.returncode}")
        return output

    return wait


def write_index_of_size(num: str, folder: str) -> None:
    """Write an index of synthetic utterances in shards of 256 MiB, part by part."""
    import numpy as np

    from pipeline.data.corpora.domains import Domain
    from pipeline.data.store.index import Part, write_index
    from pipeline.data.store.layout import tar_name

    num_rows, per_shard = int(num), 3700
    corpora = tuple(f"corpus{number}" for number in range(29))
    attacks = [f"attack{number}" for number in range(ATTACKS_PER_CORPUS)]
    domains = (
        *(Domain(corpus, "bonafide", corpus) for corpus in corpora),
        *(Domain(corpus, "spoof", f"{corpus}/{attack}") for attack in attacks for corpus in corpora),
    )

    def parts() -> Iterator[Part]:
        rng = np.random.default_rng(0)
        for begin in range(0, num_rows, 100 * per_shard):
            rows = np.arange(begin, min(begin + 100 * per_shard, num_rows))
            attack = rng.integers(1, ATTACKS_PER_CORPUS + 1, len(rows))
            columns: dict[str, NDArray[Any]] = {
                "shard": (rows // per_shard).astype(np.int32),
                "offset": rows % per_shard * 70_000,
                "num_bytes": np.full(len(rows), 69_000, np.int32),
                "seconds": (np.rint(durations(rng, len(rows)) * SAMPLE_RATE) / SAMPLE_RATE).astype(
                    np.float32
                ),
                "label": (rows % 2).astype(np.int8),
                "domain": (rows // per_shard % 29 + 29 * np.where(rows % 2, 0, attack)).astype(np.int32),
                "uid": rng.integers(2**64, size=len(rows), dtype=np.uint64),
            }
            yield Part(domains, columns)

    tars = tuple(tar_name("corpus", f"{number:016x}") for number in range(-(-num_rows // per_shard)))
    write_index(Path(folder), tars, corpora, parts())


def plan(folder: str, cap_hours: str) -> None:
    """Plan an epoch; print the seconds, peak and private GiB, ms to reach a batch, and the padding fraction.

    Args:
        folder: has the index.
        cap_hours: hours per epoch of each domain, as many of bona fide as of spoofed speech; inf balances nothing.
    """
    from pipeline.data.corpora.domains import MAX_REPEATS, DomainRule
    from pipeline.data.loading.buckets import BatchConfig, plan_buckets
    from pipeline.data.loading.epoch import EpochPlan
    from pipeline.data.store.index import map_index

    started = time.perf_counter()
    is_capped = math.isfinite(float(cap_hours))
    rule = DomainRule("attack", float(cap_hours), 1.0, MAX_REPEATS) if is_capped else DomainRule()
    index, config = map_index(Path(folder)), BatchConfig()
    epoch = EpochPlan(index, config, buckets=plan_buckets(index, config, rule))
    seconds = time.perf_counter() - started
    numbers = range(0, epoch.num_batches, -(-epoch.num_batches // 5))
    jump_ms = 1000 * max(timed(partial(epoch.__getitem__, number)) for number in numbers)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_gib, mapped_gib = (int(status[name].split()[0]) / 2**20 for name in ("VmHWM", "RssFile"))
    print(seconds, peak_gib, peak_gib - mapped_gib, jump_ms, epoch.summary().padding)
