"""Score folders, read whole and checked: what a system said about the utterances of some corpora."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.storage import Folder

GROUPS = ("attack", "artifact", "language")
"""The columns that a corpus is broken down by."""

NOT_STATED = "(not stated)"
"""Stands for a corpus, an attack, an artifact or a language that nobody named."""

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("uid", "corpus", "label", *GROUPS)] + [("score", pa.float32())]
)


@dataclass(frozen=True)
class ScoreSet:
    """What one system said about the labelled utterances of some corpora."""

    system: str
    location: str
    identity: Mapping[str, Any]
    """scores.json: checkpoint, weights digest, snapshot, policy, precision, decoder …"""
    rows: pa.Table
    """One row a labelled utterance, columns of SCHEMA; uids are unique and scores finite."""
    num_unlabelled: int

    @property
    def corpora(self) -> list[str]:
        return sorted(self.rows["corpus"].unique().to_pylist())

    @property
    def run_id(self) -> str | None:
        """The MLflow run that made the scores."""
        run_id = (self.identity.get("tracking") or {}).get("run_id")
        return None if run_id is None else str(run_id)

    def of(self, corpus: str) -> pa.Table:
        """The rows of one corpus."""
        return self.rows.filter(pc.equal(self.rows["corpus"], corpus))


def load_scores(folder: Folder) -> ScoreSet:
    """Read a finished score folder and check it.

    Raises:
        InputError: no scores, an unfinished folder, missing columns, a row count that is not the promised one,
            an utterance scored twice, an unknown label, a score that is not finite.
    """
    where = folder.location()
    if not folder.exists("scores.json"):
        raise InputError(
            f"{where}: scoring did not finish, scores.json is missing; run bonafide score again"
            if folder.exists("scores")
            else f"{where}: no scores here; bonafide score --out {where} writes them"
        )
    try:
        identity = json.loads(folder.read("scores.json"))
        system, promised = str(identity["system"]), int(identity["num_utterances"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}/scores.json: not the record that bonafide score writes: {error!r}"
        ) from error
    if identity.get("audio"):
        raise InputError(
            f"{where}: scores of a bare folder, which has no labels; to measure errors, write a manifest of it, "
            "ingest it, and score it with --store"
        )
    names = [info.name for info in folder.find("scores") if info.name.endswith(".parquet")]
    tables = [_read_table(folder, name) for name in names]
    rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    if rows.num_rows != promised:
        raise InputError(
            f"{where}: scores.json promises {promised} utterances, the Parquet files hold {rows.num_rows}; "
            "score into an empty folder"
        )
    _check(rows, where)
    named = pc.fill_null(rows["corpus"], NOT_STATED)
    rows = rows.set_column(SCHEMA.get_field_index("corpus"), "corpus", named)
    labelled = rows.filter(pc.is_valid(rows["label"]))
    if not labelled.num_rows:
        raise InputError(
            f"{where}: none of {rows.num_rows} utterances has a label; there is nothing to compare"
        )
    # Every breakdown sorts its scores again, which costs little when they arrive in order.
    labelled = labelled.sort_by("score")
    return ScoreSet(system, where, identity, labelled, rows.num_rows - labelled.num_rows)


def _read_table(folder: Folder, name: str) -> pa.Table:
    try:
        with pq.ParquetFile(io.BytesIO(folder.read(name))) as file:
            missing = sorted(set(SCHEMA.names) - set(file.schema_arrow.names))
            if missing:
                raise InputError(f"{folder.location(name)}: columns {', '.join(missing)} are missing")
            return file.read(columns=SCHEMA.names).select(SCHEMA.names).cast(SCHEMA)
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{folder.location(name)}: not a Parquet file of scores: {reason}") from error


def _check(rows: pa.Table, where: str) -> None:
    num_different = pc.count_distinct(rows["uid"]).as_py()
    if num_different != rows.num_rows:
        counts = pc.value_counts(rows["uid"])
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        raise InputError(
            f"{where}: {len(twice)} utterances are scored more than once, the first is {twice[0]}"
        )
    unknown = set(rows["label"].unique().to_pylist()) - {"bonafide", "spoof", None}
    if unknown:
        raise InputError(f"{where}: unknown labels {sorted(unknown)}; known: bonafide, spoof")
    is_bad = pc.invert(pc.fill_null(pc.is_finite(rows["score"]), False))
    if pc.any(is_bad).as_py():
        bad = rows["uid"].filter(is_bad)
        raise InputError(f"{where}: {len(bad)} scores are not finite, the first is that of {bad[0]}")


def with_own_names(score_sets: Sequence[ScoreSet]) -> list[ScoreSet]:
    """Tell systems of the same name apart by the folder of their scores."""
    systems = [scores.system for scores in score_sets]
    named = [
        scores
        if systems.count(scores.system) == 1
        else replace(scores, system=f"{scores.system} ({scores.location.rpartition('/')[2]})")
        for scores in score_sets
    ]
    names = [scores.system for scores in named]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two score folders are both {name}; give each folder once, or rename one")
    return named


def split_by_label(rows: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scores of the bona fide and of the spoof utterances."""
    scores = rows["score"].to_numpy()
    is_bonafide = pc.equal(rows["label"], "bonafide").to_numpy()
    return scores[is_bonafide], scores[~is_bonafide]


def warnings(score_sets: Sequence[ScoreSet]) -> list[str]:
    """What a reader must know before comparing the systems, in words; empty if all is well."""
    first, *others = score_sets
    found: list[str] = []
    for scores in score_sets:
        num_rejected = scores.identity.get("num_rejected")
        if num_rejected:
            found.append(
                f"{scores.system}: {num_rejected:,} utterances could not be scored and count nowhere."
            )
        if scores.num_unlabelled:
            found.append(
                f"{scores.system}: {scores.num_unlabelled:,} utterances have no label and are left out."
            )
    for scores in others:
        names, uneven = f"{first.system} and {scores.system}", []
        for corpus in sorted({*first.corpora, *scores.corpora}):
            mine, theirs = first.of(corpus)["uid"], scores.of(corpus)["uid"]
            num_shared = pc.sum(pc.is_in(mine, value_set=theirs.combine_chunks())).as_py() or 0
            if num_shared != len(mine) or num_shared != len(theirs):
                uneven.append(f"{corpus} ({len(mine):,} and {len(theirs):,}, {num_shared:,} shared)")
        if uneven:
            found.append(f"{names} scored different utterances: {', '.join(uneven)}.")
        for field in ("snapshot", "policy", "precision", "decoder"):
            one, other = first.identity.get(field), scores.identity.get(field)
            if one != other:
                found.append(f"{names} differ in {field}: {in_words(one)} and {in_words(other)}.")
    return found


def in_words(value: object) -> str:
    """A value of scores.json for people."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
