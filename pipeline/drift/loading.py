"""Load a sample from a SCORES folder: with the embeddings of a layer, or with scores alone."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.drift.sample import COLUMNS, LABELS, Sample
from pipeline.errors import InputError
from pipeline.evaluation.complete import find_score_folder
from pipeline.evaluation.embeddings import layers_of, load_embeddings, load_rows
from pipeline.storage import Folder

NO_LAYER = "none"
"""Instead of a layer: compare scores, durations and levels alone."""


def load_sample(location: str, layer: str) -> tuple[Sample, pa.Table]:
    """Load the utterances to compare, and the rows of all that have a score.

    Args:
        location: a SCORES folder, or one that holds a single one.
        layer: of the embeddings; of scores without any embeddings, or with NO_LAYER, all utterances are loaded.

    Raises:
        InputError: the folder holds several SCORES; they are incomplete or damaged, or have embeddings of other layers
            only; a label is unknown; a score is not finite; an utterance is scored twice.
    """
    folder = find_score_folder(Folder(location))
    identity, scored = load_rows(folder)
    scored = scored.select(COLUMNS.names).cast(COLUMNS)
    _check(scored, folder.location())
    if layer == NO_LAYER or not layers_of(identity):
        return Sample(str(identity["system"]), folder.location(), identity, scored), scored
    loaded = load_embeddings(folder, layer)
    rows = loaded.rows.select(COLUMNS.names).cast(COLUMNS).combine_chunks()
    return Sample(loaded.system, loaded.location, identity, rows, loaded.vectors, layer), scored


def _check(rows: pa.Table, where: str) -> None:
    unknown = set(rows["label"].unique().to_pylist()) - {*LABELS, None}
    if unknown:
        raise InputError(f"{where}: unknown labels {sorted(unknown)}; known: {', '.join(LABELS)}")
    if not pc.all(pc.fill_null(pc.is_finite(rows["score"]), False)).as_py():
        raise InputError(f"{where}: some scores are not finite; score again, with --precision fp32")
    if pc.count_distinct(rows["key"]).as_py() != len(rows):
        raise InputError(f"{where}: some utterances are scored more than once; score into an empty folder")
