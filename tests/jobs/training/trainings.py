"""A small store to train on, and readers of the folder that a training leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import soundfile

from jobs import ingest
from jobs.ingestion.config import IngestConfig
from jobs.training import folder as run_folder
from jobs.training.config import TrainConfig
from jobs.training.record import TrainingResult, load_result
from pipeline.data.loading.buckets import BatchConfig
from pipeline.detector.config import EmaConfig, OptimiserConfig, TrainingConfig
from pipeline.fields import Bounds, Names
from pipeline.storage import Folder

NUM_STEPS = 60
TRAINING = TrainingConfig(
    OptimiserConfig(learning_rate=1e-3, num_warmup_steps=10, num_steps=NUM_STEPS),
    ema=EmaConfig(0.8),
    precision="fp32",
    validate_every=20,
    checkpoint_every=10,
    log_every=1,
)
BATCH = BatchConfig(max_seconds=3.0, num_buckets=2, crop_min_s=0.3, crop_max_s=0.5, window_shards=4)


def write_store(place: Path) -> None:
    """Ingest sixty clips in the layout of ASVspoof2019-LA, and noise in that of MUSAN, into `place/store`."""
    write_corpus(place / "data" / "ASVspoof2019-LA" / "LA")
    write_noises(place / "data" / "musan")
    ingest.main(
        IngestConfig(
            root=str(place / "data"),
            store=str(place / "store"),
            corpora=Names(["asvspoof2019_la", "musan"]),
            tracking_uri=tracking_uri(place),
        )
    )


def write_corpus(root: Path) -> None:
    """Noise as spoof, noise with a tone as bona fide."""
    rng = np.random.default_rng(0)
    for split, num_clips, ending in (("train", 40, "trn"), ("dev", 16, "trl"), ("eval", 4, "trl")):
        lines = []
        for clip in range(num_clips):
            is_bonafide, name = clip % 2 == 0, f"LA_{split[0].upper()}_{1000 + clip}"
            time_s = np.arange(rng.integers(5000, 10000)) / 16000
            tone = np.sin(2 * np.pi * rng.uniform(2000, 3000) * time_s)
            path = root / f"ASVspoof2019_LA_{split}" / "flac" / f"{name}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal(time_s.size) + 0.1 * is_bonafide * tone, 16000)
            lines.append(f"LA_0001 {name} - {'- bonafide' if is_bonafide else 'A01 spoof'}\n")
        protocol = root / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{split}.{ending}.txt"
        protocol.parent.mkdir(parents=True, exist_ok=True)
        protocol.write_text("".join(lines))


def write_noises(root: Path) -> None:
    """Three tones of 3 kHz, to be found in what they are added to."""
    tone = 0.5 * np.sin(2 * np.pi * 3_000 * np.arange(48_000) / 16_000)
    for number in range(3):
        path = root / "noise" / "free-sound" / f"noise-free-sound-{number:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone[: 40_000 + number], 16_000)


def tracking_uri(place: Path) -> str:
    return f"sqlite:///{place}/mlflow.db"


def config(place: Path, out: str, num_workers: tuple[int, int] = (2, 2)) -> TrainConfig:
    """A training of some seconds."""
    return TrainConfig(
        store=str(place / "store"),
        out=str(place / out),
        variant="tiny",
        num_workers=Bounds(num_workers),
        batch=BATCH,
        training=TRAINING,
        tracking_uri=tracking_uri(place),
    )


def metrics(place: Path, out: str) -> list[dict[str, float]]:
    """Every report that rank 0 logged, in order."""
    file = place / out / run_folder.METRICS
    # A line without its end is still being written.
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def losses(place: Path, out: str) -> dict[int, float]:
    """Step → loss; the later one of a step that was repeated."""
    return {int(point["step"]): point["train/loss"] for point in metrics(place, out) if "train/loss" in point}


def result_of(place: Path, out: str) -> TrainingResult:
    """The result of a complete training."""
    result = load_result(Folder(str(place / out)))
    assert result is not None
    return result


def checkpoint_folder(place: Path, out: str) -> Folder:
    """The folder of the checkpoints."""
    return Folder(str(place / out / run_folder.CHECKPOINTS))


def wait_for_step(place: Path, out: str, step: int, num_before: int = 0) -> None:
    """Wait until a step is logged after the first `num_before` points."""
    until = time.monotonic() + 240
    while not any(point["step"] >= step for point in metrics(place, out)[num_before:]):
        assert time.monotonic() < until, f"no step {step} in time"
        time.sleep(0.005)


def workers_of(ancestor: int) -> list[int]:
    """Process ids of the training workers that descend from a process."""
    return actors_of(ancestor, "RayTrainWorker")


def actors_of(ancestor: int, name: str) -> list[int]:
    """Process ids of the actors of a class that descend from a process."""
    parents = {}
    actors = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_text(errors="replace").startswith(f"ray::{name}"):
                actors.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended since it was listed

    def descends(process: int) -> bool:
        return process == ancestor or (process in parents and descends(parents[process]))

    return sorted(actor for actor in actors if descends(actor))
