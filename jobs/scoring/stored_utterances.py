"""The utterances of a store, as audio to score."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.scoring.inputs import NUM_READERS, DecodedPart, Row, ScoringPlan
from pipeline.data.corpora.recipe import Recipe
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.data.audio.waveform import Pcm


@dataclass(frozen=True)
class StoredUtterances:
    """Utterances in the shards of a store."""

    store: Folder
    schema = layout.UTTERANCE_COLUMNS
    key = layout.STORE_KEY

    def decode(self, rows: Sequence[Row], out: Folder, marker: str) -> DecodedPart:  # noqa: ARG002
        """Read PCM16 from shards, at half the bytes of float32.

        Ingest has encoded these utterances itself, so no protection against crashes is needed.

        Raises:
            InputError: a shard is missing or damaged.
        """
        part = DecodedPart()
        with concurrent.futures.ThreadPoolExecutor(NUM_READERS) as threads:
            for position, pcm in enumerate(threads.map(self._read_pcm, rows)):
                part.add(position, pcm)
        return part

    def _read_pcm(self, row: Row) -> Pcm:
        from pipeline.data.audio.errors import AudioError
        from pipeline.data.audio.flac import decode_pcm
        from pipeline.data.store.layout import REBUILD_HINT, tar_name

        name, start = tar_name(row["corpus"], row["shard"]), row["offset"]
        try:
            return decode_pcm(self.store.read(name, start, start + row["num_bytes"]))
        except (FileNotFoundError, AudioError) as error:
            state = "missing" if isinstance(error, FileNotFoundError) else f"damaged at {row['uid']}"
            location = self.store.location(name)
            raise InputError(
                f"{location}: the snapshot lists this shard, but it is {state}; {REBUILD_HINT}"
            ) from error


def plan_store(store: Folder, snapshot_name: str, corpora: Sequence[str]) -> ScoringPlan:
    """List the utterances of the named corpora of a snapshot; without names, of all its evaluation corpora.

    Raises:
        InputError: the store, the snapshot or a corpus does not exist.
    """
    from pipeline.data.store.snapshot import choose_corpora, load_regions, load_snapshot, load_utterances

    snapshot = load_snapshot(store, snapshot_name)
    chosen = choose_corpora(snapshot, corpora, role="evaluation")
    return ScoringPlan(
        audio_source=StoredUtterances(store),
        rows=load_utterances(store, chosen),
        rejects=[],
        identity={"snapshot": snapshot.digest, "corpora": sorted(chosen.corpora)},
        name=f"snapshot {snapshot.name}",
        digest=snapshot.digest,
        uri=store.uri,
        load_regions=functools.partial(load_regions, store, chosen),
    )


def plan_validation(store: Folder, snapshot_name: str, corpora: Sequence[str], recipe: Recipe) -> ScoringPlan:
    """List the utterances that a recipe holds out from a training; of all corpora that it covers, or the named ones.

    Raises:
        InputError: the store, the snapshot or a corpus does not exist, the recipe does not cover a corpus, or it holds
            out nothing.
    """
    from pipeline.data.store.snapshot import choose_corpora, load_regions, load_snapshot, load_utterances

    snapshot = load_snapshot(store, snapshot_name)
    named = choose_corpora(snapshot, corpora).corpora
    covered = [name for name, corpus in named.items() if recipe.covers(name, corpus.role)]
    uncovered = sorted(set(corpora) - set(covered))
    name = f"recipe {recipe.name}" if recipe.name else "the recipe"
    if uncovered or not covered:
        raise InputError(
            f"{name} trains and validates with none of {', '.join(uncovered or named)}; name other --corpora, or score "
            "evaluation corpora without --use"
        )
    chosen = choose_corpora(snapshot, covered)
    rows = load_utterances(store, chosen)
    rows = rows.filter(pa.array(recipe.mask(rows, "validation")))
    if not rows.num_rows:
        raise InputError(f"{name} validates with no utterance of {', '.join(covered)}; name another --recipe")
    uids = "\n".join(sorted(rows["uid"].to_pylist()))
    digest = hashlib.sha256(uids.encode()).hexdigest()[:16]
    return ScoringPlan(
        audio_source=StoredUtterances(store),
        rows=rows,
        rejects=[],
        identity={
            "snapshot": snapshot.digest,
            "corpora": sorted(set(rows["corpus"].to_pylist())),
            "use": "validation",
            "utterances": digest,
        },
        name=f"snapshot {snapshot.name}, validation",
        digest=digest,
        uri=store.uri,
        load_regions=functools.partial(load_regions, store, chosen),
    )
