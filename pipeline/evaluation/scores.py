"""Load the scores of a system from a SCORES folder, and check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.corpora.recipe import Recipe
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.columns import NOT_STATED, Column, encode, encode_durations, encode_numbers
from pipeline.evaluation.complete import check_count, load_description, part_files
from pipeline.evaluation.utterances import ClusterKind, Utterances
from pipeline.storage import Folder

TEXTS = ("corpus", "label", "artifact", "attack", "language", "speaker", "split", "codec")
"""Columns of text that are read, apart from the uid."""

REQUIRED = ("uid", "corpus", "label", "artifact", "attack", "language", "score")
"""Columns that every SCORES folder has; the others may be missing from scores of an earlier version."""

PROTOCOL = {
    "policy": "the window that is scored",
    "precision": "the arithmetic precision",
    "decoder": "the audio decoder and resampler",
}
"""Entries of a description that change the scores of a detector → what they are, in words."""


@dataclass(frozen=True)
class ScoreSet:
    """The scores of one system for labelled utterances of some corpora."""

    system: str
    location: str
    """Path or URI of the folder."""
    identity: Mapping[str, Any]
    """Content of `layout.DESCRIPTION`: checkpoint, weights digest, snapshot, policy, precision, decoder …"""
    utterances: Utterances
    num_unlabelled: int

    @cached_property
    def by_corpus(self) -> dict[str, Utterances]:
        """Corpus → its utterances, in alphabetical order of the corpora."""
        rows = self.utterances.columns["corpus"].rows_by_name()
        if len(rows) == 1:
            return dict.fromkeys(rows, self.utterances)
        return {corpus: self.utterances.take(rows[corpus]) for corpus in sorted(rows)}

    @property
    def corpora(self) -> list[str]:
        return sorted(self.by_corpus)

    def differs_in(self, other: ScoreSet) -> list[str]:
        """List the entries of PROTOCOL in which two systems differ."""
        return [name for name in PROTOCOL if self.identity.get(name) != other.identity.get(name)]

    @property
    def run_id(self) -> str | None:
        """The MLflow run that made the scores."""
        run_id = (self.identity.get("tracking") or {}).get("run_id")
        return None if run_id is None else str(run_id)


def load_scores(folder: Folder, recipe: Recipe | None = None, clusters: ClusterKind = "auto") -> ScoreSet:
    """Load a complete SCORES folder and check it.

    Args:
        folder: written by `bonafide score --store`.
        recipe: decides which artifacts count as spoof; default: all do.
        clusters: how utterances will be grouped, which decides whether the names of source files are read.

    Raises:
        InputError: the folder has no scores or is incomplete; columns are missing; the number of rows differs from
            the description; an utterance is scored twice; a label is unknown; a score is not finite; no utterance
            has a label.
    """
    where = folder.location()
    identity = load_description(folder)
    if identity.get("audio"):
        raise InputError(
            f"{where}: scores of a folder of audio files, which have no labels; to measure error rates, "
            "write a manifest, ingest the folder, and score it with --store"
        )
    names = part_files(folder)
    rows = _read_tables(folder, names, SCHEMA)
    check_count(folder, identity, rows.num_rows)
    _check(rows, where)
    labelled = rows.filter(pc.is_valid(rows["label"])) if rows["label"].null_count else rows
    if not labelled.num_rows:
        raise InputError(
            f"{where}: none of {rows.num_rows} utterances has a label, so there are no error rates"
        )
    if recipe is not None and recipe.bonafide_artifacts:
        labelled = recipe.relabel(_decoded(labelled, ("label", "attack", "artifact")))
    is_labelled = pc.is_valid(rows["label"])
    del rows
    paths = None
    if clusters == "file" or (clusters == "auto" and labelled["speaker"].null_count):
        paths = _read_tables(folder, names, PATH_SCHEMA).filter(is_labelled)["path"]
    return ScoreSet(
        str(identity["system"]),
        where,
        identity,
        _utterances(labelled, paths),
        len(is_labelled) - len(labelled),
    )


def _read_tables(folder: Folder, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    tables = (_read_table(folder, name, schema) for name in names)
    return pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()


def _decoded(table: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    return table


SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        *((name, pa.dictionary(pa.int32(), pa.string())) for name in TEXTS),
        ("seconds", pa.float32()),
        ("sample_rate", pa.int32()),
        ("score", pa.float32()),
    ]
)
"""The columns that evaluation reads."""


PATH_SCHEMA = pa.schema([("path", pa.dictionary(pa.int32(), pa.string()))])
"""The source file of each utterance, which is read only if it is needed: all names together may be large."""


def _read_table(folder: Folder, name: str, schema: pa.Schema) -> pa.Table:
    try:
        data = pa.py_buffer(folder.read(name))
        known = set(pq.read_schema(pa.BufferReader(data)).names)
        missing = sorted(set(REQUIRED) - known)
        if missing:
            raise InputError(f"{folder.location(name)}: columns {', '.join(missing)} are missing")
        chosen = [field for field in schema if field.name in known]
        texts = [field.name for field in chosen if pa.types.is_dictionary(field.type)]
        with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts) as file:
            table = file.read(columns=[field.name for field in chosen])
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{folder.location(name)}: not a Parquet file of scores: {reason}") from error
    num_rows = pq.read_metadata(pa.BufferReader(data)).num_rows
    columns = [
        table[field.name].cast(field.type) if field.name in known else pa.nulls(num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _utterances(rows: pa.Table, paths: pa.ChunkedArray | None) -> Utterances:
    """Sort labelled rows by score, and encode their texts and the paths of their source files."""
    scores = rows["score"].to_numpy()
    labels = encode(rows["label"])
    is_bonafide = (
        labels.codes == list(labels.names).index("bonafide")
        if "bonafide" in labels.names
        else np.zeros(scores.size, bool)
    )
    order = np.concatenate((np.flatnonzero(is_bonafide), np.flatnonzero(~is_bonafide)))
    order = order[np.argsort(scores[order], kind="stable")]
    columns = {name: encode(rows[name]) for name in TEXTS if name != "label"}
    if paths is not None:
        columns["path"] = encode(paths)._replace(names=())
    corpus = columns["corpus"]
    if (corpus.codes < 0).any():
        codes = np.where(corpus.codes < 0, len(corpus.names), corpus.codes).astype(np.int32)
        columns["corpus"] = Column([*corpus.names, NOT_STATED], codes)
    columns["seconds"] = encode_durations(rows["seconds"].to_numpy().astype(np.float32))
    columns["sample_rate"] = encode_numbers(rows["sample_rate"].to_numpy().astype(np.float64), "Hz")
    return Utterances(
        rows["uid"].combine_chunks().take(pa.array(order)),
        scores[order].astype(np.float64),
        is_bonafide[order],
        {name: column.take(order) for name, column in columns.items()},
    )


def _check(rows: pa.Table, where: str) -> None:
    num_different = pc.count_distinct(rows["uid"]).as_py()
    if num_different != rows.num_rows:
        counts = pc.value_counts(rows["uid"])
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        raise InputError(
            f"{where}: {len(repeated)} utterances are scored more than once, the first is {repeated[0]}; "
            "score into an empty folder"
        )
    unknown = set(rows["label"].unique().to_pylist()) - {"bonafide", "spoof", None}
    if unknown:
        raise InputError(f"{where}: unknown labels {sorted(unknown)}; known: bonafide, spoof")
    is_invalid = pc.invert(pc.fill_null(pc.is_finite(rows["score"]), False))
    if pc.any(is_invalid).as_py():
        uids = rows["uid"].filter(is_invalid)
        raise InputError(f"{where}: {len(uids)} scores are not finite, the first is for utterance {uids[0]}")


def with_unique_names(score_sets: Sequence[ScoreSet]) -> list[ScoreSet]:
    """Append the name of the folder to systems that share a name, or of the folder around those of several policies.

    Raises:
        InputError: two systems share both.
    """
    systems = [scores.system for scores in score_sets]
    named = [
        scores
        if systems.count(scores.system) == 1
        else replace(scores, system=f"{scores.system} ({_folder_name(scores)})")
        for scores in score_sets
    ]
    names = [scores.system for scores in named]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two score folders are both named {name}; give each folder once, or rename one")
    return named


def _folder_name(scores: ScoreSet) -> str:
    parent, _, name = scores.location.rpartition("/")
    is_of_policy = name == layout.policy_folder(str(scores.identity.get("policy")))
    return parent.rpartition("/")[2] if is_of_policy else name
