"""Compare ingest with a bare loop and with Ray Data's own readers and writers; measure memory and planning."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.benchmarks.planning import measure_planning
from jobs.benchmarks.table import Measured, print_now, timed
from jobs.ray_session import ray_session
from pipeline.data.audio.waveform import SAMPLE_RATE


@dataclass(frozen=True)
class IngestBenchmark:
    """How much to ingest."""

    num_files: int = 12_000
    """Number of source files: 48 kHz mono FLAC."""
    num_distinct: int = 1000
    """Number of distinct files; the others are hard links to them, or copies on file systems without links."""
    file_s: float = 6.0
    """Length of a file, seconds."""
    rounds: int = 2
    """Number of rounds; the best speed counts, because other load on the machine can only slow a run down."""
    shard_mib: float = 64.0
    """Size of a shard, MiB; the default makes twenty shards. Smaller shards cost more, because Ray leaves a worker
    idle for a tenth of a second between two shards."""
    plan_rows: int = 10_000_000
    """Number of utterances to plan."""
    peak_shard_mib: float = 256.0
    """Size of the shard whose peak memory is measured, MiB; 0 skips that."""


def measure(config: IngestBenchmark, folder: Path) -> Iterator[Measured]:
    """Measure the bare loop, the shard writer, the job with one and two workers, Ray Data, and planning."""
    audio_s = make_corpus(config, folder / "data")
    paths = sorted((folder / "data").rglob("*.flac"))
    print_now(f"{len(paths)} files, {audio_s / 3600:.2f} h")

    turns: dict[str, Callable[[], float]] = {
        **{f"bare loop, {num} processes": partial(bare_speed, paths, num, config.file_s) for num in (1, 2)},
        "shards, one process": partial(plain_speed, folder, config, audio_s),
        **{f"ingest, {num} workers": partial(job_speed, folder, config, num) for num in (1, 2)},
        "Ray Data, 2 workers": partial(ray_data_speed, folder, audio_s, 2),
    }
    speeds = dict.fromkeys(turns, 0.0)
    for number in range(config.rounds):
        for name, turn in turns.items():
            print_now(f"{name}, round {number + 1}")
            speeds[name] = max(speeds[name], turn())
    yield from compare(speeds)

    if config.peak_shard_mib:
        print_now(f"peak memory of a worker at {config.peak_shard_mib:.0f} MiB a shard")
        yield Measured("peak memory of a worker", f"{peak_memory_mib(folder, config):.0f} MiB")
    for rows in (config.plan_rows // 100, config.plan_rows // 10, config.plan_rows):
        yield from measure_planning(rows, folder)


def compare(speeds: Mapping[str, float]) -> Iterator[Measured]:
    """Each speed, relative to the same number of bare loops."""
    for name, speed in speeds.items():
        bare = speeds[f"bare loop, {2 if ', 2 ' in name else 1} processes"]
        yield Measured(name, f"{speed:.0f} × real time", f"{speed / bare:.2f} of the bare loops")
    one, two, peer = (
        speeds[name] for name in ("ingest, 1 workers", "ingest, 2 workers", "Ray Data, 2 workers")
    )
    bare = speeds["bare loop, 2 processes"] / speeds["bare loop, 1 processes"]
    yield Measured("from 1 to 2 workers", f"{two / one:.2f} ×", f"the bare loop: {bare:.2f} ×")
    yield Measured("ingest against Ray Data", f"{two / peer:.1f} ×", "two workers each")


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


def bare_speed(paths: list[Path], num_processes: int, file_s: float) -> float:
    """Audio seconds per second of the bare loop over the same files; excludes the start of its processes."""
    shares = [paths[part::num_processes] for part in range(num_processes)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_processes, context) as pool:
        list(pool.map(bare_loop, [share[:20] for share in shares]))
        seconds = timed(lambda: list(pool.map(bare_loop, shares)))
    return len(paths) * file_s / seconds


def bare_loop(paths: list[Path]) -> None:
    """Read, decode, resample and encode: the work that no implementation can avoid."""
    import soundfile
    import soxr

    for path in paths:
        samples, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")
        pcm = (soxr.resample(samples, rate, SAMPLE_RATE, "HQ") * 32767).astype("int16")
        soundfile.write(io.BytesIO(), pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def plain_speed(folder: Path, config: IngestBenchmark, audio_s: float) -> float:
    """Audio seconds per second of one process that catalogs, plans and writes without Ray."""
    return audio_s / write_shards(str(folder), config.shard_mib)


def write_shards(folder: str, shard_mib: float) -> float:
    """Catalog, plan and write shards in this process, without Ray; returns seconds."""
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
            plan.name, members.to_pylist(), root, store, licence=manifest.licence, resampler="soxr_hq"
        )
    return time.perf_counter() - started


def job_speed(folder: Path, config: IngestBenchmark, num_cpus: int) -> float:
    """Audio seconds per second of the building stage of `bonafide ingest`, as printed by the job."""
    store = tempfile.mkdtemp(dir=folder)
    argv = [sys.executable, "-m", "jobs.ingest", "--root", str(folder / "data"), "--store", store]
    argv += ["--corpora", "cnceleb2", "--shard-mib", str(config.shard_mib)]
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


def peak_memory_mib(folder: Path, config: IngestBenchmark) -> float:
    """Peak resident memory of a new process that writes large shards, MiB."""
    program = (
        "import sys; from jobs.benchmarks import ingest, table; "
        "ingest.write_shards(sys.argv[1], float(sys.argv[2])); print(table.peak_mib())"
    )
    argv = [sys.executable, "-c", program, str(folder), str(config.peak_shard_mib)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)  # noqa: S603
    return float(done.stdout)
