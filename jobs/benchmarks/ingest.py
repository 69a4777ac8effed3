"""Compare ingest with a bare loop and with Ray Data's own readers and writers; measure memory and planning."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from jobs.benchmarks.planning import measure_planning
from jobs.benchmarks.table import Measured, peak_mib, print_now, timed
from jobs.ray_session import ray_session
from pipeline.data.audio import dr_flac
from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.fields import Count, Range

Decode = Callable[[bytes], tuple[Waveform, int]]
"""Decodes the bytes of a file to a waveform and its sample rate."""

WATCH_S = 0.2
"""Time between two looks at the memory of the workers."""


@dataclass(frozen=True)
class IngestBenchmark:
    """How much to ingest, and how often."""

    num_files: Count = 12_000
    """Number of source files: 48 kHz mono FLAC."""
    num_distinct: Count = 1000
    """Number of distinct files; the others are hard links to them, or copies on file systems without links."""
    file_s: Annotated[float, Range(0.1, 3600)] = 6.0
    """Length of a file, seconds."""
    rounds: Count = 2
    """Number of rounds; the median counts."""
    shard_mib: Annotated[float, Range(0.01, 65_536)] = 64.0
    """Size of a shard, MiB; the default makes twenty shards. Smaller shards cost more, because Ray leaves a worker
    idle for 0.15 s between two shards."""
    plan_rows: Count = 10_000_000
    """Number of utterances to plan."""
    peak_shard_mib: Annotated[float, Range(0.01, 65_536, also=0)] = 256.0
    """Size of the shard whose peak memory is measured, MiB; 0 skips that."""


@dataclass(frozen=True)
class Paired:
    """A speed and that of the bare loops just before and after it, audio seconds per second.

    On a shared host, speeds move by a third from one minute to the next; ratios of neighbours move much less.
    """

    speed: float
    bare: float

    @property
    def ratio(self) -> float:
        return self.speed / self.bare


def measure(config: IngestBenchmark, folder: Path) -> Iterator[Measured]:
    """Measure the shard writer, the job and Ray Data, each between two bare loops; then memory and planning."""
    audio_s = make_corpus(config, folder / "data")
    paths = sorted((folder / "data").rglob("*.flac"))
    print_now(f"{len(paths)} files, {audio_s / 3600:.2f} h")

    turns: dict[int, dict[str, Callable[[], float]]] = {
        1: {
            "shards, one process": partial(plain_speed, folder, config, audio_s),
            "ingest, 1 worker": partial(job_speed, folder, config.shard_mib, 1),
        },
        2: {
            "ingest, 2 workers": partial(job_speed, folder, config.shard_mib, 2),
            "Ray Data, 2 workers": partial(ray_data_speed, folder, audio_s, 2),
        },
    }
    if dr_flac.CONTAINERS:
        turns[2]["loops with dr_flac, 2 processes"] = partial(bare_speed, paths, 2, config.file_s, by_dr_flac)
    pairs: dict[str, list[Paired]] = defaultdict(list)
    for number in range(config.rounds):
        print_now(f"round {number + 1}")
        for num_processes, measured in turns.items():
            bare = partial(bare_speed, paths[number % 3 :: 3], num_processes, config.file_s, by_soundfile)
            for name, pair in measure_between(measured, bare):
                print_now(f"{name}: {pair.speed:.0f} × real time, {pair.ratio:.2f} of the bare loops")
                pairs[name].append(pair)
    yield from compare(pairs)

    if config.peak_shard_mib:
        print_now(f"peak memory of a worker at {config.peak_shard_mib:.0f} MiB a shard")
        with peak_of_workers() as peak:
            job_speed(folder, config.peak_shard_mib, 2)
        yield Measured("peak memory of a worker", f"{max(peak):.0f} MiB")
    for rows in (config.plan_rows // 100, config.plan_rows // 10, config.plan_rows):
        yield from measure_planning(rows, folder)


def measure_between(
    turns: Mapping[str, Callable[[], float]], bare: Callable[[], float]
) -> Iterator[tuple[str, Paired]]:
    """Measure each speed between two runs of the bare loop; neighbours share the run between them."""
    before = bare()
    for name, turn in turns.items():
        speed, after = turn(), bare()
        yield name, Paired(speed, statistics.harmonic_mean([before, after]))
        before = after


def compare(pairs: Mapping[str, Sequence[Paired]]) -> Iterator[Measured]:
    """The median of each speed, and of its ratio to the same number of bare loops."""
    speeds = {name: statistics.median(pair.speed for pair in rounds) for name, rounds in pairs.items()}
    bare = {name: statistics.median(pair.bare for pair in rounds) for name, rounds in pairs.items()}
    one, two, peer = "ingest, 1 worker", "ingest, 2 workers", "Ray Data, 2 workers"
    for name, speed in ((one, bare[one]), (two, bare[two])):
        yield Measured(f"bare loops beside {name}", f"{speed:.0f} × real time")
    for name, rounds in pairs.items():
        ratios = [pair.ratio for pair in rounds]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        share = f"{statistics.median(ratios):.2f} of the bare loops ({spread})"
        yield Measured(name, f"{speeds[name]:.0f} × real time", share)
    more = f"the bare loops: {bare[two] / bare[one]:.2f} ×"
    yield Measured("from 1 to 2 workers", f"{speeds[two] / speeds[one]:.2f} ×", more)
    yield Measured("ingest against Ray Data", f"{speeds[two] / speeds[peer]:.1f} ×", "two workers each")


def make_corpus(config: IngestBenchmark, data: Path) -> float:
    """Write shaped noise as 48 kHz FLAC in the layout of CN-Celeb2; returns seconds of audio."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    num_samples = int(config.file_s * 48_000)
    envelope = np.abs(np.sin(np.arange(num_samples) * 2 * np.pi * 3 / 48_000)).astype(np.float32)
    folder = data / "CNCeleb2" / "CN-Celeb2_flac" / "data"
    paths = [
        folder / f"id{number % 40:05d}" / f"speech-01-{number:06d}.flac" for number in range(config.num_files)
    ]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= config.num_distinct:
            _link_or_copy(paths[number % config.num_distinct], path)
            continue
        noise = np.cumsum(rng.standard_normal(num_samples, np.float32))
        noise -= np.linspace(noise[0], noise[-1], num_samples, dtype=np.float32)
        soundfile.write(path, 0.3 * envelope * noise / np.abs(noise).max(), 48_000)
    return config.num_files * config.file_s


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError:  # this file system has no hard links
        shutil.copyfile(source, path)


def bare_speed(paths: list[Path], num_processes: int, file_s: float, decode: Decode) -> float:
    """Audio seconds per second of the bare loop over the same files; excludes the start of its processes."""
    shares = [paths[part::num_processes] for part in range(num_processes)]
    loop = partial(bare_loop, decode)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_processes, context) as pool:
        list(pool.map(loop, [share[:20] for share in shares]))
        seconds = timed(lambda: list(pool.map(loop, shares)))
    return len(paths) * file_s / seconds


def bare_loop(decode: Decode, paths: list[Path]) -> None:
    """Read, decode, resample and encode: the work that no implementation can avoid."""
    import soundfile
    import soxr

    for path in paths:
        samples, rate = decode(path.read_bytes())
        pcm = (soxr.resample(samples, rate, SAMPLE_RATE, "HQ") * 32767).astype("int16")
        soundfile.write(io.BytesIO(), pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def by_soundfile(data: bytes) -> tuple[Waveform, int]:
    """Decode as most programs do; returns the waveform and its sample rate."""
    import soundfile

    decoded: tuple[Waveform, int] = soundfile.read(io.BytesIO(data), dtype="float32")
    return decoded


def by_dr_flac(data: bytes) -> tuple[Waveform, int]:
    """Decode as ingest does; returns the waveform and its sample rate."""
    import miniaudio
    import numpy as np

    decoded = miniaudio.flac_read_f32(data)
    return np.frombuffer(decoded.samples, np.float32), decoded.sample_rate


def plain_speed(folder: Path, config: IngestBenchmark, audio_s: float) -> float:
    """Audio seconds per second of one process that catalogs, plans and writes without Ray."""
    return audio_s / write_shards(str(folder), config.shard_mib)


def write_shards(folder: str, shard_mib: float) -> float:
    """Catalog, plan and write shards in this process, without Ray; returns seconds."""
    from pipeline import tables
    from pipeline.data.corpora.corpus import read_files
    from pipeline.data.corpora.manifest import choose_manifests
    from pipeline.data.corpora.recipe import Recipe
    from pipeline.data.store import catalog as catalogs
    from pipeline.data.store import probing, shards
    from pipeline.data.store.plan import plan_shards
    from pipeline.storage import Folder

    manifest = choose_manifests(["cnceleb2"])["cnceleb2"]
    root, store = Folder(f"{folder}/data/{manifest.folder}"), Folder(tempfile.mkdtemp(dir=folder))
    started = time.perf_counter()
    rows = catalogs.rows(read_files(manifest, root), manifest.name, Recipe())
    catalog = catalogs.table(list(probing.probe_rows(rows, root, manifest)))
    settings = shards.build_settings("soxr_hq", manifest.licence)
    planned = plan_shards([catalog], (), build_settings=settings, target_bytes=int(shard_mib * 2**20))
    for plan, members in planned:
        assert plan is not None, "every file of the benchmark is good"
        shards.build_shard(
            plan.name, tables.iter_rows(members), root, store, licence=manifest.licence, resampler="soxr_hq"
        )
    return time.perf_counter() - started


def job_speed(folder: Path, shard_mib: float, num_cpus: int) -> float:
    """Audio seconds per second of the building stage of `bonafide ingest`, as printed by the job."""
    store = tempfile.mkdtemp(dir=folder)
    argv = [sys.executable, "-m", "jobs.ingest", "--root", str(folder / "data"), "--store", store]
    argv += ["--corpora", "cnceleb2", "--shard-mib", str(shard_mib)]
    with ray_with(num_cpus) as environment:
        done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    speeds = re.findall(r"^building .* (\d+)× real time", done.stderr, re.MULTILINE)
    return float(speeds[-1])


def ray_data_speed(folder: Path, audio_s: float, num_cpus: int) -> float:
    """Audio seconds per second of the same work with Ray Data's own readers and writers."""
    import ray

    with ray_with(num_cpus):
        started = time.perf_counter()
        dataset = ray.data.read_audio(str(folder / "data"), file_extensions=["flac"], include_paths=True)
        dataset.map(as_webdataset).write_webdataset(tempfile.mkdtemp(dir=folder))
        return audio_s / (time.perf_counter() - started)


def as_webdataset(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of `read_audio` to a member of a tar, at 16 kHz."""
    import numpy as np
    import soundfile
    import soxr

    samples = np.asarray(row["amplitude"], np.float32).reshape(-1)
    file = io.BytesIO()
    pcm = (soxr.resample(samples, int(row["sample_rate"]), SAMPLE_RATE, "HQ") * 32767).astype("int16")
    soundfile.write(file, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return {"__key__": Path(row["path"]).stem, "flac": file.getvalue()}


@contextlib.contextmanager
def ray_with(num_cpus: int) -> Iterator[dict[str, str]]:
    """Start a local Ray; yields the environment variables with which a process joins it."""
    import ray

    with ray_session(num_cpus=num_cpus):
        yield os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@contextlib.contextmanager
def peak_of_workers() -> Iterator[list[float]]:
    """Yield a list to which the peak resident memory of Ray's workers is added as it is seen, MiB."""
    peaks: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(WATCH_S):
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, IndexError):  # the process has ended, or is about to
                    if (folder / "cmdline").read_bytes().startswith(b"ray::"):
                        peaks.append(peak_mib(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()
