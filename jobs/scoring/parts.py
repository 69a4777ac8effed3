"""Scoring in parts: CPU tasks decode a part, a pool of actors scores it, and its scores are written as one file."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.ray_session import num_devices
from jobs.scoring.config import ScoreConfig
from jobs.scoring.folder import missing_parts, write_part
from jobs.scoring.inputs import AudioSource, SampleType, ScoringPlan
from jobs.scoring.weights import SharedDetector, get_detector
from pipeline import tables
from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.progress import Progress, counted
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.scoring import Precision


@dataclass(frozen=True)
class ScorerPool:
    """The number of scoring processes, and their settings."""

    num_workers: int
    device: str
    """cpu or cuda."""
    gpus_per_worker: float
    precision: Precision
    batch_seconds: float
    window: str


def choose_pool(config: ScoreConfig) -> ScorerPool:
    """Choose as many processes as fit on the connected cluster, unless the user gave a number.

    Raises:
        InputError: the user requires GPUs, and this machine has none.
    """
    num_cpus, num_gpus = num_devices()
    device = config.device if config.device != "auto" else ("cuda" if num_gpus else "cpu")
    # A cluster may add GPU machines on demand, so only a local Ray proves that there are none.
    if device == "cuda" and not num_gpus and not os.environ.get("RAY_ADDRESS"):
        raise InputError("--device cuda needs a GPU, and Ray finds none on this machine; remove --device")
    num_fitting = int(num_gpus / config.gpus_per_worker) if device == "cuda" else num_cpus // 2
    return ScorerPool(
        num_workers=config.num_workers or max(1, num_fitting),
        device=device,
        gpus_per_worker=config.gpus_per_worker,
        precision=config.precision,
        batch_seconds=config.batch_seconds,
        window=config.window,
    )


def plan_parts(seconds: NDArray[np.floating], part_seconds: float) -> list[int]:
    """Divide consecutive utterances into parts.

    Args:
        seconds: duration of each utterance.
        part_seconds: a part has the utterances that start within this much audio, so its last one may overrun.

    Returns:
        The number of utterances in each part.
    """
    starts = np.cumsum(seconds, dtype=np.float64) - seconds
    return [int(count) for count in np.bincount((starts // part_seconds).astype(np.int64)) if count]


def score_parts(
    plan: ScoringPlan, part_sizes: Sequence[int], out: Folder, shared: SharedDetector, pool: ScorerPool
) -> float:
    """Score the parts that are missing in a folder.

    Args:
        plan: what to score; `out` holds its rows, one row group per part.
        part_sizes: number of rows of each part.
        out: folder of the scores.
        shared: the detector.
        pool: processes and settings.

    Returns:
        Seconds of audio that were scored now.
    """
    import ray

    parts = missing_parts(out, len(part_sizes))
    num_done = len(part_sizes) - len(parts)
    print(
        f"{counted(len(part_sizes), 'part')} planned, {num_done} already scored, {len(parts)} to score",
        flush=True,
    )
    if not parts:
        return 0.0
    progress = Progress("scoring", sum(part_sizes[part] for part in parts), "utterance")
    results = (
        ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        # Ray Data fuses stages that reserve equal resources, so num_cpus must differ from that of the scorers.
        .map_batches(
            functools.partial(decode_part, audio_source=plan.audio_source, out=out),
            batch_size=1,
            num_cpus=plan.audio_source.num_cpus,
        )
        .map_batches(
            PartScorer,
            fn_constructor_args=(shared, pool, plan.audio_source.schema, out),
            batch_format="pyarrow",
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(pool.num_workers, len(parts))),
            num_cpus=0.5,
            num_gpus=pool.gpus_per_worker if pool.device == "cuda" else 0,
        )
    )
    for row in results.iter_rows():
        progress.add(
            row["num_scored"] + row["num_rejected"], audio_s=row["seconds"], num_rejected=row["num_rejected"]
        )
    progress.finish()
    return progress.audio_s


def decode_part(batch: dict[str, Any], audio_source: AudioSource, out: Folder) -> pa.Table:
    """Decode one part into a table of one row, so that Ray Data cannot split the part."""
    part = int(batch["part"][0])
    rows = tables.read_group(out, layout.PLAN, part).to_pylist()
    decoded = audio_source.decode(rows, out, layout.attempts_name(part))
    return pa.table(
        {
            "part": [part],
            "positions": pa.array([decoded.positions], pa.list_(pa.int32())),
            "audio": pa.array([decoded.audio], pa.list_(pa.large_binary())),
            "sample_type": [decoded.sample_type],
            "rejects": pa.array([decoded.rejects], pa.list_(pa.struct(list(layout.REJECT_COLUMNS)))),
        }
    )


class PartScorer:
    """Scores decoded parts with one copy of the detector, and writes their files."""

    def __init__(self, shared: SharedDetector, pool: ScorerPool, schema: pa.Schema, out: Folder) -> None:
        import torch

        from pipeline.detector.scoring import Scorer, WindowPolicy

        if pool.device == "cpu":
            torch.set_num_threads(1)
        self.out = out
        self.schema = schema
        self.scorer = Scorer(
            get_detector(shared),
            device=torch.device(pool.device),
            precision=pool.precision,
            max_seconds=pool.batch_seconds,
            policy=WindowPolicy.parse(pool.window),
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the output of `decode_part`; return the counts of scores and rejects, and the seconds of audio."""
        part, sample_type = batch["part"][0].as_py(), batch["sample_type"][0].as_py()
        rejects = batch["rejects"][0].as_py()
        waveforms = [_to_waveform(audio, sample_type) for audio in batch["audio"][0].as_py()]
        logits_N2 = self.scorer.score(waveforms)
        rows = tables.read_group(self.out, layout.PLAN, part).take(batch["positions"][0].values)
        columns = {name: rows[name] for name in self.schema.names if name in rows.schema.names}
        columns |= {
            "logit_spoof": pa.array(logits_N2[:, 0]),
            "logit_bonafide": pa.array(logits_N2[:, 1]),
            "score": pa.array(logits_N2[:, 1] - logits_N2[:, 0]),
        }
        scores = pa.table(columns).select(self.schema.names).cast(self.schema)
        write_part(self.out, part, scores, rejects)
        return pa.table(
            {
                "part": [part],
                "num_scored": [len(waveforms)],
                "num_rejected": [len(rejects)],
                "seconds": [sum(map(len, waveforms)) / SAMPLE_RATE],
            }
        )


def _to_waveform(audio: bytes, sample_type: SampleType) -> Waveform:
    """Convert samples to float32 [num_samples] within ±1."""
    if sample_type == "int16":
        return np.frombuffer(audio, np.int16).astype(np.float32) / np.float32(32768)
    return np.frombuffer(audio, np.float32)
