"""Samples of simulated embeddings, whose utterances have speakers, attacks, durations and levels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.drift.sample import COLUMNS, Sample
from pipeline.evaluation import layout
from pipeline.storage import Folder
from pipeline.tables import to_parquet

IDENTITY = {
    "weights_digest": "0123456789abcdef",
    "policy": "whole",
    "precision": "fp32",
    "snapshot": "000001",
}


def simulate(
    seed: int,
    num: int = 300,
    *,
    width: int = 8,
    share_of_spoof: float = 0.5,
    num_speakers: int = 0,
    speaker_spread: float = 1.0,
    speaker_seed: int | None = None,
    attacks: Sequence[str] = ("tts",),
    attack_shifts: Mapping[str, float] | None = None,
    shift: float = 0.0,
    num_shifted: int = 8,
    level: float = -26.0,
    is_labelled: bool = True,
    layer: str = "head",
    corpus: str = "calls",
    **changes: object,
) -> Sample:
    """Draw utterances; equal arguments with another seed draw others of the same distribution.

    Args:
        seed: of all random numbers; also the start of the keys and the names of speakers.
        num: utterances.
        width: numbers of an embedding, of which the first tells the classes apart.
        share_of_spoof: of the utterances.
        num_speakers: 0: every utterance has no speaker, and a file of its own.
        speaker_seed: samples with the same one have the same speakers; default: others for every seed.
        speaker_spread: standard deviation of the offset that all embeddings of a speaker have.
        attacks: of the spoofs, each with the same probability.
        attack_shifts: attack → how far its embeddings are shifted in the last number.
        shift: of the first numbers of all embeddings.
        num_shifted: how many they are.
        level: mean level in dB.
        is_labelled: whether utterances have labels.
        layer: empty: without embeddings.
        corpus: their corpus.
        changes: entries of the description.
    """
    rng = np.random.default_rng([seed, 2**20])
    is_spoof = rng.random(num) < share_of_spoof
    attack = rng.choice(np.array(attacks), num)
    vectors = rng.normal(size=(num, width))
    vectors[:, 0] += np.where(is_spoof, -3, 3)
    vectors[:, -1] += np.where(is_spoof, [(attack_shifts or {}).get(each, 0.0) for each in attack], 0)
    vectors[:, :num_shifted] += shift
    speaker = rng.integers(0, num_speakers, num) if num_speakers else None
    if speaker is not None:
        own = np.random.default_rng([seed if speaker_seed is None else speaker_seed, 2**21])
        vectors += own.normal(0, speaker_spread, (num_speakers, width))[speaker]
    start = seed if speaker_seed is None else f"shared {speaker_seed}"
    speakers = [None] * num if speaker is None else [f"{start}-{each}" for each in speaker]
    columns: dict[str, Any] = {
        "key": [f"{seed}-{row}" for row in range(num)],
        "path": [f"{seed}/{row}.wav" for row in range(num)],
        "corpus": [corpus] * num,
        "label": np.where(is_spoof, "spoof", "bonafide").tolist() if is_labelled else [None] * num,
        "artifact": [None] * num,
        "attack": [a if s and is_labelled else None for a, s in zip(attack, is_spoof, strict=True)],
        "speaker": speakers,
        "seconds": rng.uniform(2, 8, num).astype(np.float32),
        "level_dbfs": rng.normal(level, 3, num).astype(np.float32),
        "score": vectors[:, 0].astype(np.float32),
    }
    rows = pa.table({name: pa.array(values, COLUMNS.field(name).type) for name, values in columns.items()})
    return Sample(
        "tiny",
        f"/scores/{seed}",
        IDENTITY | changes,
        rows,
        vectors.astype(np.float32) if layer else None,
        layer,
    )


def write_scores(folder: Path, sample: Sample) -> str:
    """Write a sample as `bonafide score` does; returns the folder."""
    rows = sample.rows.rename_columns([name if name != "key" else layout.STORE_KEY for name in COLUMNS.names])
    description: dict[str, Any] = {"system": sample.system, "num_utterances": len(sample), "num_rejected": 0}
    files = {layout.part_name(0): rows}
    if sample.vectors is not None:
        widths = {sample.layer: sample.vectors.shape[1]}
        description["embeddings"] = {"layers": [sample.layer], "per_group": None, "widths": widths}
        vectors = pa.array(sample.vectors.astype(np.float16).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(vectors, widths[sample.layer])
        schema = layout.embeddings_schema(layout.STORE_KEY, widths)
        files[layout.embeddings_name(0)] = pa.table([rows[layout.STORE_KEY], column], schema=schema)
    for name, table in files.items():
        Folder(str(folder)).commit(name, to_parquet(table))
    data = json.dumps({**sample.identity, **description}).encode()
    Folder(str(folder)).commit(layout.DESCRIPTION, data)
    return str(folder)
