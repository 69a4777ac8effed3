"""Scoring part by part: decoded by CPU tasks, scored by a pool of actors, committed; what is there is left alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.scoring import weights
from jobs.scoring.inputs import REJECTS, Input, Planned
from pipeline import tables
from pipeline.progress import Progress
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.scoring import Precision

PLAN = "plan.parquet"


@dataclass(frozen=True)
class Pool:
    """The processes that score, and how."""

    size: int
    device: str
    """cpu or cuda."""
    gpus_each: float
    precision: Precision
    batch_seconds: float
    window: str


def plan_parts(seconds: Any, part_seconds: float) -> list[int]:
    """How many consecutive utterances each part has: as many as begin within `part_seconds` of audio."""
    begins = np.cumsum(seconds, dtype=np.float64) - seconds
    return [int(count) for count in np.bincount((begins // part_seconds).astype(np.int64)) if count]


def part_name(part: int) -> str:
    """Where the scores of a part lie; the mark that it is done."""
    return f"scores/part-{part:06d}.parquet"


def rejects_name(part: int) -> str:
    """Where a part says which files have no score, if there are any."""
    return f"rejects/part-{part:06d}.parquet"


def score_parts(
    planned: Planned, lengths: Sequence[int], out: Folder, shared: tuple[Any, Any], pool: Pool
) -> float:
    """Score the parts that are missing; returns the seconds of audio in them.

    lengths: rows of each part, as the plan in `out` has them; shared: the weights, from `jobs.scoring.weights.share`.
    """
    import ray

    done = {info.name for info in out.find("scores")} if out.exists("scores") else set()
    todo = [{"part": part} for part in range(len(lengths)) if part_name(part) not in done]
    print(f"{len(lengths)} parts planned, {len(lengths) - len(todo)} there, {len(todo)} to score", flush=True)
    if not todo:
        return 0.0
    progress = Progress("scoring", sum(lengths[item["part"]] for item in todo), "utterances")
    scored = (
        ray.data.from_items(todo, override_num_blocks=len(todo))
        # Another number of CPUs than the scorer's: stages that ask for the same are fused into the scorer.
        .map_batches(
            functools.partial(decode_part, heard=planned.input, out=out),
            batch_size=1,
            num_cpus=planned.input.num_cpus,
        )
        .map_batches(
            PartScorer,
            fn_constructor_args=(shared, pool, planned.input.schema, out),
            batch_format="pyarrow",
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(pool.size, len(todo))),
            num_cpus=0.5,
            num_gpus=pool.gpus_each if pool.device == "cuda" else 0,
        )
    )
    for row in scored.iter_rows():
        progress.add(
            row["num_scored"] + row["num_rejected"], audio_s=row["seconds"], num_rejected=row["num_rejected"]
        )
    progress.print_now()
    return progress.audio_s


def decode_part(batch: dict[str, Any], heard: Input, out: Folder) -> pa.Table:
    """The audio of one part as one row, so that no block holds half of it."""
    part = int(batch["part"][0])
    found = heard.hear(tables.read_group(out, PLAN, part).to_pylist(), out, f"score/{part:06d}")
    return pa.table(
        {
            "part": [part],
            "positions": pa.array([found.positions], pa.list_(pa.int32())),
            "audio": pa.array([found.audio], pa.list_(pa.large_binary())),
            "sample_type": [found.sample_type],
            "rejects": pa.array([found.rejects], pa.list_(pa.struct(list(REJECTS)))),
        }
    )


class PartScorer:
    """Holds the detector; scores a part and commits it."""

    def __init__(self, shared: tuple[Any, Any], pool: Pool, schema: pa.Schema, out: Folder) -> None:
        import torch

        from pipeline.detector.scoring import Scorer, WindowPolicy

        if pool.device == "cpu":
            torch.set_num_threads(1)
        self.out = out
        self.schema = schema
        self.scorer = Scorer(
            weights.receive(shared),
            device=torch.device(pool.device),
            precision=pool.precision,
            max_seconds=pool.batch_seconds,
            policy=WindowPolicy.parse(pool.window),
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        part, sample_type = batch["part"][0].as_py(), batch["sample_type"][0].as_py()
        rejects = batch["rejects"][0].as_py()
        waveforms = [waveform(audio, sample_type) for audio in batch["audio"][0].as_py()]
        logits = self.scorer.score(waveforms)
        rows = tables.read_group(self.out, PLAN, part).take(batch["positions"][0].values)
        columns = {name: rows[name] for name in self.schema.names if name in rows.schema.names}
        columns |= {
            "logit_spoof": pa.array(logits[:, 0]),
            "logit_bonafide": pa.array(logits[:, 1]),
            "score": pa.array(logits[:, 1] - logits[:, 0]),
        }
        if rejects:
            self.out.commit(rejects_name(part), tables.to_parquet(pa.Table.from_pylist(rejects, REJECTS)))
        scores = pa.table(columns).select(self.schema.names).cast(self.schema)
        self.out.commit(part_name(part), tables.to_parquet(scores))
        seconds = sum(map(len, waveforms)) / 16_000
        return pa.table(
            {
                "part": [part],
                "num_scored": [len(waveforms)],
                "num_rejected": [len(rejects)],
                "seconds": [float(seconds)],
            }
        )


def waveform(audio: bytes, sample_type: str) -> Any:
    """Samples as the detector takes them: float32 [num_samples] within ±1."""
    if sample_type == "int16":
        return np.frombuffer(audio, np.int16).astype(np.float32) / np.float32(32768)
    return np.frombuffer(audio, np.float32)


def num_scored(out: Folder, num_parts: int) -> int:
    """Rows of all parts."""
    column = "id"
    return sum(len(tables.read_table(out, part_name(part), [column])) for part in range(num_parts))


def rejected(out: Folder) -> list[dict[str, Any]]:
    """The files of all parts that have no score, in the order of the plan."""
    names = [info.name for info in out.find("rejects")] if out.exists("rejects") else []
    return [row for name in names for row in tables.read_table(out, name).to_pylist()]
