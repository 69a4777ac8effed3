"""SCORES folders of simulated embeddings, whose spoofs are made by named systems and spoken by several speakers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation import layout
from pipeline.storage import Folder
from pipeline.tables import to_parquet

IDENTITY = {
    "weights_digest": "0123456789abcdef",
    "policy": "whole",
    "precision": "fp32",
    "snapshot": "000001",
}


def write_scores(
    folder: Path,
    systems: Sequence[str],
    *,
    seed: int = 0,
    num: int = 40,
    num_speakers: int = 8,
    distances: Mapping[str, float] | None = None,
    width: int = 32,
    num_bonafide: int = 0,
    corpora: Sequence[str] = ("calls",),
    corpus_distance: float = 0.0,
    split: str | None = None,
    speaker_distance: float = 1.0,
    noise: float = 1.0,
    threshold: float | None = None,
    system_seed: int = 7,
    first: int = 0,
    **changes: object,
) -> str:
    """Write scores with embeddings as `bonafide score` does; returns the folder.

    Args:
        folder: where to write.
        systems: attacks of the spoofs; the same name is the same system in every folder.
        seed: of speakers and noise.
        num: utterances of each system.
        num_speakers: of each corpus.
        distances: layer → how far systems are apart, in standard deviations of the noise; default: layer 1 by 6.
        width: numbers of an embedding.
        num_bonafide: bona fide utterances of each corpus.
        corpora: utterances are divided among them.
        corpus_distance: how far corpora are apart in each layer.
        split: of all utterances.
        speaker_distance: how far speakers are apart.
        noise: factor of everything but the distance of systems.
        threshold: verdicts are by this score; None: there are none.
        system_seed: of the directions of systems.
        first: number of the first utterance.
        changes: entries of the description.
    """
    layers = {"0": 0.0, "1": 6.0} if distances is None else dict(distances)
    rng = np.random.default_rng([seed, 2**22])
    attack = [name for name in systems for _ in range(num)] + [None] * (num_bonafide * len(corpora))
    total = len(attack)
    is_spoof = np.array([name is not None for name in attack], bool)
    corpus = np.arange(total) % len(corpora)
    corpus_names = np.array(corpora)[corpus].tolist()
    speaker = rng.integers(0, num_speakers, total) + corpus * num_speakers
    score = np.where(is_spoof, -2, 2) + rng.normal(0, 1.5, total)
    uids = [f"{seed}-{first + row}" for row in range(total)]
    columns: dict[str, Any] = {
        "uid": uids,
        "id": [f"utt{seed}_{first + row}" for row in range(total)],
        "path": [f"{name or 'real'}/{uid}.wav" for name, uid in zip(attack, uids, strict=True)],
        "corpus": corpus_names,
        "label": np.where(is_spoof, "spoof", "bonafide").tolist(),
        "attack": attack,
        "speaker": [f"s{seed}-{each}" for each in speaker],
        "split": [split] * total,
        "score": score.astype(np.float32),
        "verdict": [
            None if threshold is None else "bonafide" if each >= threshold else "spoof" for each in score
        ],
    }
    rows = pa.table(
        {
            field.name: pa.array(columns.get(field.name, [None] * total), field.type)
            for field in layout.UTTERANCE_COLUMNS
        }
    )
    widths = dict.fromkeys(layers, width)
    schema = layout.embeddings_schema(layout.STORE_KEY, widths)
    vectors = []
    for number, (_, distance) in enumerate(layers.items()):
        means = {
            name: np.random.default_rng([system_seed, number, *name.encode()]).normal(size=width)
            for name in systems
        }
        of_corpus = np.random.default_rng([system_seed, number]).normal(size=(len(corpora), width))
        of_speaker = rng.normal(0, speaker_distance, (num_speakers * len(corpora), width))
        values = rng.normal(size=(total, width)) + of_speaker[speaker] + corpus_distance * of_corpus[corpus]
        values *= noise
        for row, name in enumerate(attack):
            if name is not None:
                values[row] += distance * means[name] / np.linalg.norm(means[name])
        flat = pa.array(values.astype(np.float16).reshape(-1))
        vectors.append(pa.FixedSizeListArray.from_arrays(flat, width))
    description = {
        "system": "tiny",
        "num_utterances": total,
        "num_rejected": 0,
        "embeddings": {"layers": list(layers), "per_group": None, "widths": widths},
    }
    out = Folder(str(folder))
    out.commit(layout.part_name(0), to_parquet(rows))
    out.commit(
        layout.embeddings_name(0), to_parquet(pa.table([rows[layout.STORE_KEY], *vectors], schema=schema))
    )
    out.commit(layout.DESCRIPTION, json.dumps({**IDENTITY, **description, **changes}).encode())
    return str(folder)
