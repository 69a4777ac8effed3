"""The training loader against the bare loop and its peers: speed per core, waiting, padding, planning, augmentations.

Speeds are audio seconds per second of processor time, the best of several rounds that take turns, so that what else
runs on the machine counts as little as possible.
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
from jobs.benchmarks.peers import Batches
from jobs.benchmarks.table import Measured, say, timed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.data.loading.batches import TrainingBatches
    from pipeline.data.store.index import Index
    from pipeline.storage import Folder

SETTLED = 8
"""Batches before a measurement: workers have started and have filled what they may fill ahead."""


@dataclass(frozen=True)
class LoaderBenchmark:
    """How much to load."""

    num_utterances: int = 2000
    """Utterances to make: noise of 1 to 20 s, log-normal, 5 s on average."""
    rounds: int = 3
    """Times that each loader has its turn; the best one counts."""
    audio_per_s: float = 2750.0
    """Audio seconds that a simulated training takes per second: a 300M detector on an H200, as the arithmetic says."""
    plan_rows: int = 10_000_000
    """Utterances of the largest epoch to plan; 70000000 is all of the paper's audio, and takes 2.2 GB of disk."""


def measure(config: LoaderBenchmark, folder: Path) -> Iterator[Measured]:
    """Loading from local shards, the peers, random access, planning and augmentations."""
    say("making audio and shards")
    store, index = make_store(config, folder)
    say(f"{len(index)} utterances, {index.seconds.sum() / 3600:.2f} h")
    training = {num: our_loader(store, index, num) for num in (0, 1, 2)}
    yield from measure_speed(config, folder, store, index, training)
    for num_workers in (1, 2):
        say(f"a training that takes {config.audio_per_s:.0f} s of audio per second, {num_workers} workers")
        yield measure_wait(config, training[num_workers])
    say("random access")
    yield measure_access(store, index)
    for num_rows in sorted({min(num, config.plan_rows) for num in (1_000_000, 10_000_000, config.plan_rows)}):
        say(f"planning an epoch of {num_rows:,} utterances")
        yield measure_plan(num_rows, folder / "plan")
    say("augmentations")
    yield from measure_augmentations(config, store, index)


def make_store(config: LoaderBenchmark, folder: Path) -> tuple[Folder, Index]:
    """Noise with the rhythm and the level of speech as loose FLAC, and as shards made of it."""
    import numpy as np

    from pipeline.data.audio.flac import encode_flac, quantise
    from pipeline.data.corpora.recipe import Recipe
    from pipeline.data.store import shards
    from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot, load_index
    from pipeline.storage import Folder

    rng = np.random.default_rng(0)
    speech = speech_like(rng, 60 * 16_000)
    (folder / "loose").mkdir()
    members: list[Any] = []
    for number, seconds in enumerate(durations(rng, config.num_utterances)):
        begin = rng.integers(len(speech) - int(seconds * 16_000))
        piece = speech[begin : begin + int(seconds * 16_000)]
        path = f"{number:06d}.flac"
        (folder / "loose" / path).write_bytes(encode_flac(quantise(piece)))
        row: dict[str, Any] = dict.fromkeys(shards.METADATA)
        row |= {
            "start": None,
            "end": None,
            "uid": f"{number:016x}",
            "id": path,
            "path": path,
            "split": "train",
        }
        members.append(row | {"corpus": "noise", "label": ("spoof", "bonafide")[number % 2]})
    store, loose = Folder(str(folder / "store")), Folder(str(folder / "loose"))
    each = -(-len(members) // 8)
    written = [
        shards.write_shard(
            f"noise-{begin}", members[begin : begin + each], loose, store, licence="", resampler="soxr_hq"
        )
        for begin in range(0, len(members), each)
    ]
    corpus = CorpusSnapshot("noise", "train", "", None, "", "", len(members), {}, {}, {}, tuple(written))
    return store, load_index(store, Snapshot(1, "", {"noise": corpus}), Recipe(), "train")


def durations(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """Seconds of utterances as the corpora have them."""
    return rng.lognormal(1.5, 0.65, num).clip(1, 20)


def speech_like(rng: np.random.Generator, num_samples: int) -> NDArray[np.float32]:
    """Noise that falls with frequency and rises and falls with syllables: FLAC makes some 65 MB an hour of it."""
    import numpy as np
    import scipy.signal

    noise = scipy.signal.lfilter([0.14, 0.14], [1, -0.72], rng.standard_normal(num_samples))
    time_s = np.arange(num_samples) / 16_000
    syllables = np.abs(np.sin(2 * np.pi * 2.1 * time_s)) ** 3 * (0.5 + 0.5 * np.sin(2 * np.pi * 0.3 * time_s))
    waveform = 0.3 * noise / np.abs(noise).max() * (0.03 + syllables)
    waveform += 2e-4 * rng.standard_normal(num_samples)
    return np.asarray(waveform, np.float32)


def our_loader(store: Folder, index: Index, num_workers: int) -> TrainingBatches:
    """The loader of a training on one rank, as it comes."""
    from pipeline.data.loading.batches import TrainingBatches
    from pipeline.data.loading.buckets import BatchConfig

    return TrainingBatches(store, index, BatchConfig(), num_workers=num_workers)


def measure_speed(
    config: LoaderBenchmark,
    folder: Path,
    store: Folder,
    index: Index,
    training: dict[int, TrainingBatches],
) -> Iterator[Measured]:
    """The bare loop, ours and the peers, in turns."""
    index.save(folder / "index")
    turns: dict[str, Callable[[], Speed]] = {
        f"bare loop, {num} processes": partial(bare_speed, num, store.uri, folder / "index") for num in (1, 2)
    }
    for num, batches in training.items():
        turns[f"loader, {num} workers"] = partial(our_speed, batches)
    tars = [store.location(name) for name in index.shards]
    paths = sorted((folder / "loose").iterdir())
    for num in (0, 2):
        turns[f"webdataset, {num} workers"] = partial(
            peer_speed, peers.webdataset_batches, tars, num, len(paths)
        )
        turns[f"DataLoader, {num} workers"] = partial(peer_speed, peers.loose_batches, paths, num, len(paths))
    best: dict[str, Speed] = {}
    for number in range(config.rounds):
        for name, turn in turns.items():
            say(f"{name}, round {number + 1}")
            found = turn()
            best[name] = max(best.get(name, found), found, key=lambda speed: speed.per_core)
    for name, speed in best.items():
        # Two processes share a cache and a memory: what two workers do is held against what two loops can do.
        bare = best[f"bare loop, {2 if ', 2 ' in name else 1} processes"]
        against = (
            f"{speed.per_core / bare.per_core:.2f} of the bare loop; {speed.by_clock:.0f} × by the clock"
        )
        padding = f"; {speed.padding:.1%} padding" if speed.padding else ""
        yield Measured(name, f"{speed.per_core:.0f} × real time a core", against + padding)


@dataclass(frozen=True)
class Speed:
    """What a loop achieved."""

    per_core: float
    """Audio seconds per second of processor time, of all processes together."""
    by_clock: float
    """Audio seconds per second."""
    padding: float = 0.0
    """Share of the batches."""


def bare_speed(num_processes: int, store: str, index: Path) -> Speed:
    """Several bare loops at once."""
    loops = [fresh("bare_loop", store, index) for _ in range(num_processes)]
    speeds = [tuple(map(float, loop().split())) for loop in loops]
    return Speed(num_processes / sum(1 / core for core, _ in speeds), sum(clock for _, clock in speeds))


def bare_loop(store: str, folder: str) -> None:
    """Do what cannot be done without, read and decode; print audio seconds per second of processor and of clock."""
    import soundfile

    from pipeline.data.store.index import map_index

    index = map_index(Path(folder))
    files = [os.open(f"{store}/{name}", os.O_RDONLY) for name in index.shards]
    places = list(zip(index.shard.tolist(), index.offset.tolist(), index.num_bytes.tolist(), strict=True))
    clock, used = time.perf_counter(), time.process_time()
    for shard, offset, num_bytes in places:
        soundfile.read(io.BytesIO(os.pread(files[shard], num_bytes, offset)), dtype="float32")
    clock, used = time.perf_counter() - clock, time.process_time() - used
    audio = float(index.seconds.sum())
    print(audio / used, audio / clock)


def our_speed(training: TrainingBatches) -> Speed:
    """An epoch of the training loader."""
    batches = ((batch.waveform, batch.num_samples) for batch in training(0))
    return timed_batches(batches, training.plan(0).num_batches, training.num_workers)


def peer_speed(
    make: Callable[[list[Any], int], Batches], source: list[Any], num_workers: int, num_utterances: int
) -> Speed:
    """All batches of a peer."""
    return timed_batches(make(source, num_workers), num_utterances // peers.BATCH_SIZE, num_workers)


def timed_batches(batches: Batches, num_batches: int, num_workers: int) -> Speed:
    """Time the batches between the first ones, which workers begin with, and the last ones, which lie ready."""
    last = num_batches - 5 * num_workers - 1
    first = min(SETTLED, last // 2)
    audio = padded = clock = used = 0.0
    running = iter(batches)  # its workers, and with them their counts, end with it
    for number, (waveform_BT, num_samples_B) in enumerate(running):
        audio += float(num_samples_B.sum()) / 16_000
        padded += waveform_BT.numel() / 16_000
        if number == first:
            audio = padded = 0.0
            clock, used = time.perf_counter(), processor_s()
        if number == last:
            break
    used, clock = processor_s() - used, time.perf_counter() - clock
    return Speed(audio / max(used, 0.01), audio / clock, 1 - audio / padded)


def processor_s() -> float:
    """Processor time so far of this process and its children that are alive."""
    ticks = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends while we count
            for process in (thread / "children").read_text().split():
                # After the name in brackets: state, parent …; user and system time are the 12th and 13th.
                facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                ticks += int(facts[11]) + int(facts[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure_wait(config: LoaderBenchmark, training: TrainingBatches) -> Measured:
    """How much of its time a training waits for batches that are late."""
    found = [wait_once(training, config.audio_per_s) for _ in range(config.rounds)]
    share, first_s = (min(each) for each in zip(*found, strict=True))
    return Measured(
        f"waiting, {training.num_workers} workers",
        f"{share:.1%} of the time",
        f"at {config.audio_per_s:.0f} audio s/s; the first batch came after {first_s:.1f} s",
    )


def wait_once(training: TrainingBatches, audio_per_s: float) -> tuple[float, float]:
    """Take batches as fast as a training would; returns the share of waiting, and seconds to the first batch."""
    started = time.perf_counter()
    waited = first_s = 0.0
    batches, number = training(0), 0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited / (time.perf_counter() - started), first_s
        if number == 0:
            first_s = waited
        if number == SETTLED:
            waited, started = 0.0, time.perf_counter()
        time.sleep(float(batch.num_samples.sum()) / 16_000 / audio_per_s)
        number += 1


def measure_access(store: Folder, index: Index) -> Measured:
    """Read utterances from anywhere in the shards, without decoding."""
    import numpy as np

    files = [os.open(store.location(name), os.O_RDONLY) for name in index.shards]
    rows = np.random.default_rng(0).permutation(len(index))
    places = np.stack([index.shard, index.num_bytes, index.offset], axis=1)[rows].tolist()

    def read() -> None:
        for shard, num_bytes, offset in places:
            os.pread(files[shard], num_bytes, offset)

    seconds = min(timed(read) for _ in range(3))
    for file in files:
        os.close(file)
    return Measured("random access", f"{len(places) / seconds:.0f} utterances/s", "pread, one core")


def measure_plan(num_rows: int, folder: Path) -> Measured:
    """Plan an epoch in a fresh process, over an index that the ranks of a machine share."""
    folder = folder / str(num_rows)
    fresh("write_plan", num_rows, folder)()
    seconds, peak_gib, own_gib, jump_ms, padding = map(float, fresh("plan", folder)().split())
    return Measured(
        f"plan of {num_rows:,}",
        f"{seconds:.1f} s, {peak_gib:.2f} GiB",
        f"{own_gib:.2f} GiB of it for each further rank; {jump_ms:.0f} ms to any batch; {padding:.1%} padding",
    )


def fresh(function: str, *words: str | int | Path) -> Callable[[], str]:
    """Start a function of this module in a process of its own; the call that comes back waits for what it prints."""
    program = f"import sys; from jobs.benchmarks import loader; loader.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - words of ours

    def printed() -> str:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{function} ended with {process.returncode}")
        return output

    return printed


def write_plan(num: str, folder: str) -> None:
    """Write an index of made-up utterances, shards of 256 MiB, without ever holding it."""
    import numpy as np

    from pipeline.data.store.index import Part, write_index
    from pipeline.data.store.layout import tar_name

    num_rows, per_shard = int(num), 3700

    def parts() -> Iterator[Part]:
        rng = np.random.default_rng(0)
        for begin in range(0, num_rows, 100 * per_shard):
            rows = np.arange(begin, min(begin + 100 * per_shard, num_rows))
            yield {
                "shard": (rows // per_shard).astype(np.int32),
                "offset": rows % per_shard * 70_000,
                "num_bytes": np.full(len(rows), 69_000, np.int32),
                "seconds": (np.rint(durations(rng, len(rows)) * 16_000) / 16_000).astype(np.float32),
                "label": (rows % 2).astype(np.int8),
                "corpus": (rows // per_shard % 29).astype(np.int16),
                "uid": rng.integers(2**64, size=len(rows), dtype=np.uint64),
            }

    tars = tuple(tar_name("corpus", f"{number:016x}") for number in range(-(-num_rows // per_shard)))
    write_index(Path(folder), tars, tuple(f"corpus{number}" for number in range(29)), parts())


def plan(folder: str) -> None:
    """Plan an epoch; print seconds, peak and own GiB, ms to a batch and the share of padding."""
    from pipeline.data.loading.buckets import BatchConfig
    from pipeline.data.loading.epoch import EpochPlan
    from pipeline.data.store.index import map_index

    started = time.perf_counter()
    epoch = EpochPlan(map_index(Path(folder)), BatchConfig())
    seconds = time.perf_counter() - started
    numbers = range(0, epoch.num_batches, -(-epoch.num_batches // 5))
    jump_ms = 1000 * max(timed(partial(epoch.__getitem__, number)) for number in numbers)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_gib, mapped_gib = (int(status[name].split()[0]) / 2**20 for name in ("VmHWM", "RssFile"))
    print(seconds, peak_gib, peak_gib - mapped_gib, jump_ms, epoch.report().padding)


def measure_augmentations(config: LoaderBenchmark, store: Folder, index: Index) -> Iterator[Measured]:
    """Each augmentation on the same utterances."""
    import numpy as np

    from pipeline.data.audio.flac import decode_flac
    from pipeline.data.loading.augment import AUGMENTATIONS

    waveforms = []
    for row in range(min(len(index), 50)):
        begin = int(index.offset[row])
        data = store.read(index.shards[index.shard[row]], begin, begin + int(index.num_bytes[row]))
        waveforms.append(decode_flac(data))
    audio = sum(map(len, waveforms)) / 16_000
    for name, augment in AUGMENTATIONS.items():
        best = math.inf
        for _ in range(config.rounds):
            used = time.process_time()
            for seed, waveform in enumerate(waveforms):
                augment(waveform, np.random.default_rng(seed))
            best = min(best, time.process_time() - used)
        yield Measured(name, f"{audio / best:.0f} × real time a core")
