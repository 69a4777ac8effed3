"""SCORES folders of simulated systems, whose utterances have speakers, attacks, codecs and durations."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.evaluation import layout
from pipeline.evaluation.embeddings import layers_of, load_embeddings
from pipeline.evaluation.measure import Settings
from pipeline.evaluation.results import Results, evaluate
from pipeline.evaluation.scores import load_scores, with_unique_names
from pipeline.storage import Folder
from pipeline.tables import to_parquet

NUM_SPEAKERS = 30


def write_system(
    folder: Path,
    *,
    system: str = "tiny",
    skill: float = 2.0,
    seed: int = 0,
    corpora: Sequence[str] = ("alpha", "beta"),
    num_utterances: int = 600,
    without: Sequence[str] = (),
    left_out: int = 0,
    hard_attack: float = 0.0,
    **changes: object,
) -> Path:
    """Write the scores of a system.

    Args:
        folder: where to write.
        system: its name.
        skill: distance of each class from 0; utterances of a speaker share an offset.
        seed: of the errors that only this system makes.
        corpora: their names.
        num_utterances: of each corpus, half of them bona fide.
        without: columns that are not written.
        left_out: utterances of each corpus that this system did not score.
        hard_attack: added to the scores of attack A03.
        changes: entries of the description.
    """
    (folder / "scores").mkdir(parents=True)
    for number, corpus in enumerate(corpora):
        shared, own = np.random.default_rng(number), np.random.default_rng([seed, number])
        rows = np.arange(num_utterances)
        is_bonafide = rows % 2 == 0
        speaker = shared.integers(0, NUM_SPEAKERS, rows.size)
        attack = shared.integers(0, 4, rows.size)
        score = np.where(is_bonafide, skill, -skill) + shared.normal(0, 1, rows.size)
        score += shared.normal(0, 0.8, NUM_SPEAKERS)[speaker] + own.normal(0, 0.4, NUM_SPEAKERS)[speaker]
        score += own.normal(0, 0.5, rows.size) + np.where(~is_bonafide & (attack == 3), hard_attack, 0)
        table = pa.table(
            {
                "uid": [f"{number:04x}{row:012x}" for row in rows],
                "corpus": [corpus] * rows.size,
                "path": [f"files/{row // 20}.wav" for row in rows],
                "label": np.where(is_bonafide, "bonafide", "spoof"),
                "artifact": [None if each else "tts" for each in is_bonafide],
                "attack": [None if b else f"A{a:02d}" for b, a in zip(is_bonafide, attack, strict=True)],
                "language": ["en" if row % 3 else "de" for row in rows],
                "speaker": [f"s{each:02d}" for each in speaker],
                "split": ["test"] * rows.size,
                "codec": ["mp3" if row % 50 < 2 else "flac" for row in rows],
                "sample_rate": pa.array([8000 if row % 5 else 44100 for row in rows], pa.int32()),
                "seconds": pa.array(shared.uniform(1, 20, rows.size), pa.float32()),
                "score": pa.array(score, pa.float32()),
            }
        )
        table = table.slice(left_out).drop_columns(list(without))
        pq.write_table(table, folder / "scores" / f"part-{number}.parquet")
    description = {
        "system": system,
        "weights_digest": f"{seed:016x}",
        "policy": "whole",
        "precision": "fp32",
        "num_utterances": len(corpora) * (num_utterances - left_out),
        "num_rejected": 0,
    }
    (folder / "scores.json").write_text(json.dumps(description | changes))
    return folder


def results_of(*folders: Path, settings: Settings | None = None) -> Results:
    """Evaluate some SCORES folders."""
    settings = settings or Settings(num_bootstrap=200)
    loaded = [load_scores(Folder(str(folder)), clusters=settings.clusters) for folder in folders]
    named = with_unique_names(loaded)
    embeddings = {
        scores.system: load_embeddings(Folder(str(folder)), settings.layer)
        for scores, folder in zip(named, folders, strict=True)
        if settings.layer in layers_of(scores.identity)
    }
    return evaluate(named, settings, embeddings=embeddings)


def write_embeddings(
    folder: Path,
    *,
    label: float = 0.0,
    corpus: float = 0.0,
    num: int | None = None,
    layers: Sequence[str] = ("head",),
    width: int = 16,
    broken: int = 0,
) -> Path:
    """Write embeddings beside the scores of a system.

    Args:
        folder: where the scores are.
        label: distance of the embeddings of each label from 0, where they have a noise of 1.
        corpus: distance of the embeddings of each corpus from 0.
        num: how many of each corpus have one; default: all.
        layers: their names; all have the same embeddings.
        width: channels.
        broken: how many of each corpus are infinite.
    """
    (folder / layout.EMBEDDINGS).mkdir()
    for number, path in enumerate(sorted((folder / layout.PARTS).iterdir())):
        rows = pq.read_table(path, columns=["uid", "label"]).slice(0, num)
        vectors = np.random.default_rng([width, number]).normal(0, 1, (len(rows), width))
        vectors[:, 0] += np.where(np.array(rows["label"]) == "spoof", -label, label)
        vectors[:, 1 + number] += corpus
        vectors[:broken] = np.inf
        flat = pa.array(vectors.astype(np.float16).ravel())
        schema = layout.embeddings_schema("uid", dict.fromkeys(layers, width))
        columns = [pa.FixedSizeListArray.from_arrays(flat, width)] * len(layers)
        table = pa.table([rows["uid"], *columns], schema=schema)
        pq.write_table(table, folder / layout.embeddings_name(number))
    description = json.loads((folder / layout.DESCRIPTION).read_text())
    description["embeddings"] = {"layers": list(layers), "widths": dict.fromkeys(layers, width)}
    (folder / layout.DESCRIPTION).write_text(json.dumps(description))
    return folder


def write_spliced(
    folder: Path,
    *,
    system: str = "tiny",
    noise: float = 1.0,
    num_utterances: int = 40,
    corpora: Sequence[str] = ("alpha", "beta"),
    regions_of: Sequence[str] = ("alpha",),
    num_scored: int | None = None,
    **changes: object,
) -> Folder:
    """Write scores of frames: every other utterance has a spoofed second half, and the score of one is their mean.

    Args:
        folder: where to write.
        system: its name.
        noise: added to the score of each frame, which is 2 for bona fide and -2 for spoofed speech.
        num_utterances: of each corpus.
        corpora: their names; each is a part.
        regions_of: the corpora whose regions are known.
        num_scored: how many frames are scored at most; default: all.
        changes: entries of the description.
    """
    out = Folder(str(folder))
    regions: list[dict[str, object]] = []
    for number, corpus in enumerate(corpora):
        rng = np.random.default_rng(number)
        rows, frames = [], []
        for position in range(num_utterances):
            is_spoof = position % 2 == 1
            seconds = float(np.float32(rng.uniform(1, 4)))
            middle = seconds / 2 if is_spoof else seconds
            starts = np.arange(int((seconds - 0.025) / 0.02) + 1)[:num_scored] * 0.02
            scores = rng.normal(np.where(starts < middle, 2, -2), noise).astype(np.float32)
            uid = f"{number:04x}{position:012x}"
            row = {"uid": uid, "id": f"{corpus}_{position:03d}", "corpus": corpus, "seconds": seconds}
            row |= {"label": "spoof" if is_spoof else "bonafide", "attack": "A01" if is_spoof else None}
            row |= {"path": f"{position}.wav", "artifact": "tts" if is_spoof else None}
            rows.append(row | {"speaker": f"s{position // 4}", "score": float(scores.mean())})
            frames.append({"uid": uid, "scores": scores.tolist()})
            if corpus in regions_of:
                regions.append({"uid": uid, "start_s": 0.0, "end_s": middle, "label": "bonafide"})
                if is_spoof:
                    regions.append({"uid": uid, "start_s": middle, "end_s": seconds, "label": "spoof"})
        schema = layout.UTTERANCE_COLUMNS
        out.commit(layout.part_name(number), to_parquet(pa.Table.from_pylist(rows, schema)))
        # Frames may be in another order than the scores.
        table = pa.Table.from_pylist(frames[::-1], layout.frames_schema("uid", "float32"))
        out.commit(layout.frames_name(number), to_parquet(table))
    if regions:
        table = pa.Table.from_pylist(regions, layout.REGION_COLUMNS)
        out.commit(
            layout.REGIONS, to_parquet(table.sort_by([("uid", "ascending"), ("start_s", "ascending")]))
        )
    out.commit(layout.REJECTS, to_parquet(layout.REJECT_COLUMNS.empty_table()))
    description: dict[str, object] = {
        "system": system,
        "weights_digest": "0123abcd",
        "variant": "tiny",
        "policy": "whole",
    }
    description |= {"precision": "fp32", "frames": "float32", "num_utterances": len(corpora) * num_utterances}
    out.commit(layout.DESCRIPTION, json.dumps(description | changes).encode())
    return out
