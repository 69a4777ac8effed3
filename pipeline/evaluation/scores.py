"""Load the scores of a system from a SCORES folder, and check them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.metrics import ClassScores
from pipeline.storage import Folder

GROUPS = ("attack", "artifact", "language")
"""Columns whose values break a corpus down into groups of utterances."""

NOT_STATED = "(not stated)"
"""Replaces a missing corpus, attack, artifact or language."""

SCHEMA = pa.schema(
    [layout.UTTERANCE_COLUMNS.field(name) for name in ("uid", "corpus", "label", *GROUPS, "score")]
)
"""The columns that evaluation reads."""


@dataclass(frozen=True)
class ScoreSet:
    """The scores of one system for labelled utterances of some corpora."""

    system: str
    location: str
    """Path or URI of the folder."""
    identity: Mapping[str, Any]
    """Content of `layout.DESCRIPTION`: checkpoint, weights digest, snapshot, policy, precision, decoder …"""
    rows: pa.Table
    """One row per labelled utterance with the columns of SCHEMA; uids are unique and scores finite."""
    num_unlabelled: int

    @property
    def corpora(self) -> list[str]:
        return sorted(self.rows["corpus"].unique().to_pylist())

    @property
    def run_id(self) -> str | None:
        """The MLflow run that made the scores."""
        run_id = (self.identity.get("tracking") or {}).get("run_id")
        return None if run_id is None else str(run_id)

    def rows_of(self, corpus: str) -> pa.Table:
        """Select the rows of one corpus."""
        return self.rows.filter(pc.equal(self.rows["corpus"], corpus))


def find_score_folders(location: Folder) -> list[Folder]:
    """The SCORES folders of a location: one for each window policy if several were scored there, else itself."""
    if not location.exists(layout.POLICIES):
        return [location]
    folders = [layout.folder_of_marker(info.name) for info in location.find(layout.POLICIES)]
    return [location.folder(name) for name in folders if name] or [location]


def load_scores(folder: Folder) -> ScoreSet:
    """Load a complete SCORES folder and check it.

    Raises:
        InputError: the folder has no scores or is incomplete; columns are missing; the number of rows differs from
            the description; an utterance is scored twice; a label is unknown; a score is not finite; no utterance
            has a label.
    """
    where = folder.location()
    if not folder.exists(layout.DESCRIPTION):
        raise InputError(
            f"{where}: scoring did not finish, {layout.DESCRIPTION} is missing; run the same `bonafide score` again"
            if folder.exists(layout.PARTS)
            else f"{where}: no scores here; write them with `bonafide score --out {where}`"
        )
    try:
        identity = json.loads(folder.read(layout.DESCRIPTION))
        system, num_expected = str(identity["system"]), int(identity["num_utterances"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder.location(layout.DESCRIPTION)}: not a description by `bonafide score` ({error!r}); "
            "score into an empty folder"
        ) from error
    if identity.get("audio"):
        raise InputError(
            f"{where}: scores of a folder of audio files, which have no labels; to measure error rates, "
            "write a manifest, ingest the folder, and score it with --store"
        )
    names = [info.name for info in folder.find(layout.PARTS) if info.name.endswith(".parquet")]
    tables = [_read_table(folder, name) for name in names]
    rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    if rows.num_rows != num_expected:
        raise InputError(
            f"{where}: {layout.DESCRIPTION} states {num_expected} utterances, the Parquet files have "
            f"{rows.num_rows}; score into an empty folder"
        )
    _check(rows, where)
    corpora = pc.fill_null(rows["corpus"], NOT_STATED)
    rows = rows.set_column(SCHEMA.get_field_index("corpus"), "corpus", corpora)
    labelled = rows.filter(pc.is_valid(rows["label"]))
    if not labelled.num_rows:
        raise InputError(
            f"{where}: none of {rows.num_rows} utterances has a label, so there are no error rates"
        )
    # Every breakdown sorts its scores again; sorting is fast when they are already in order.
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


def split_by_label(rows: pa.Table) -> ClassScores:
    """Separate the scores of bona fide and spoof utterances."""
    scores = rows["score"].to_numpy().astype(np.float64)
    is_bonafide = pc.equal(rows["label"], "bonafide").to_numpy()
    return ClassScores(scores[is_bonafide], scores[~is_bonafide])


def warnings(score_sets: Sequence[ScoreSet]) -> list[str]:
    """List everything that makes a comparison of the systems unfair, one sentence each."""
    first, *others = score_sets
    sentences: list[str] = []
    for scores in score_sets:
        num_rejected = scores.identity.get("num_rejected")
        if num_rejected:
            sentences.append(
                f"{scores.system}: {num_rejected:,} utterances could not be scored and are left out."
            )
        if scores.num_unlabelled:
            sentences.append(
                f"{scores.system}: {scores.num_unlabelled:,} utterances have no label and are left out."
            )
    for other in others:
        pair = f"{first.system} and {other.system}"
        differing = _differing_corpora(first, other)
        if differing:
            sentences.append(f"{pair} scored different utterances: {', '.join(differing)}.")
        for field in ("snapshot", "policy", "precision", "decoder"):
            one, two = first.identity.get(field), other.identity.get(field)
            if one != two:
                sentences.append(f"{pair} differ in {field}: {format_value(one)} and {format_value(two)}.")
    return sentences


def _differing_corpora(first: ScoreSet, other: ScoreSet) -> list[str]:
    """List the corpora in which two systems scored different utterances, with the numbers of utterances."""
    differing = []
    for corpus in sorted({*first.corpora, *other.corpora}):
        uids, other_uids = first.rows_of(corpus)["uid"], other.rows_of(corpus)["uid"]
        num_shared = pc.sum(pc.is_in(uids, value_set=other_uids.combine_chunks())).as_py() or 0
        if num_shared != len(uids) or num_shared != len(other_uids):
            differing.append(f"{corpus} ({len(uids):,} and {len(other_uids):,}, {num_shared:,} shared)")
    return differing


def format_value(value: object) -> str:
    """Format a value of the description for display."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
