"""Load the embeddings that were written beside scores, and the utterances that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.complete import (
    key_column,
    keyed_columns,
    keyed_rows,
    load_columns,
    load_description,
    part_files,
    read_parts,
)
from pipeline.evaluation.scores import PROTOCOL
from pipeline.storage import Folder

ROW_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # the uid, or the path of a file that was scored with --audio
        *((name, pa.string()) for name in ("id", "path", "corpus", "label", "artifact", "attack")),
        *((name, pa.string()) for name in ("language", "speaker", "split")),
        ("seconds", pa.float32()),
        ("level_dbfs", pa.float32()),
        ("score", pa.float32()),
        ("verdict", pa.string()),  # bonafide or spoof; null without a threshold
    ]
)
"""What is known of an utterance; null where it is not stated, such as the label of a file."""


MUST_AGREE = {
    "weights_digest": "the weights",
    "policy": PROTOCOL["policy"],
    "precision": PROTOCOL["precision"],
}
"""Entries of two descriptions that must agree for their embeddings to be compared → what they are, in words."""


class Difference(NamedTuple):
    """Why embeddings of two descriptions cannot be compared."""

    words: str
    first: Any
    second: Any


def find_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> Difference | None:
    """Find an entry of MUST_AGREE in which two descriptions differ; None if there is none."""
    differing = (
        Difference(words, first.get(name), second.get(name))
        for name, words in MUST_AGREE.items()
        if first.get(name) != second.get(name)
    )
    return next(differing, None)


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one system, of one layer."""

    system: str
    location: str
    """Path or URI of the SCORES folder."""
    identity: Mapping[str, Any]
    """Content of `layout.DESCRIPTION`."""
    layer: str
    """`layout.HEAD_LAYER`, or the number of a hidden state."""
    rows: pa.Table
    """One row per utterance that has an embedding, with ROW_COLUMNS."""
    vectors: NDArray[np.float32]
    """[N, E]: the embedding of each row."""


@dataclass(frozen=True)
class EmbeddedRows:
    """The utterances of a SCORES folder that have embeddings, which are read one layer at a time."""

    folder: Folder
    identity: Mapping[str, Any]
    """Content of `layout.DESCRIPTION`."""
    rows: pa.Table
    """One row per utterance that has an embedding, with ROW_COLUMNS."""

    @property
    def layers(self) -> list[str]:
        """The layers that have embeddings, in order."""
        return layers_of(self.identity)

    def vectors(self, layer: str) -> NDArray[np.float32]:
        """Read the embedding of each row, [N, E].

        Raises:
            InputError: there are no embeddings of this layer, or a file is damaged.
        """
        where = self.folder.location()
        if layer not in self.layers:
            raise InputError(
                f"{where}: has no embeddings of layer {layer}, only of {', '.join(self.layers)}; "
                f"score into another folder with --layer {layer}"
            )
        column = layout.layer_column(layer)
        schema = _schema(self.identity)
        table = read_parts(self.folder, part_files(self.folder, layout.EMBEDDINGS), schema, [column])
        width = schema.field(column).type.list_size
        vectors = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[column].chunks]
        vectors_NE = np.concatenate([np.empty(0, np.float16), *vectors]).reshape(-1, width)
        return np.asarray(vectors_NE, np.float32)


def layers_of(identity: Mapping[str, Any]) -> list[str]:
    """The layers whose embeddings were written beside the scores with this description."""
    return list((identity.get("embeddings") or {}).get("layers", ()))


def load_embedded_rows(folder: Folder) -> EmbeddedRows:
    """Load the utterances that have embeddings, in the order of these.

    Raises:
        InputError: the scores are incomplete, or have no embeddings.
    """
    identity, rows = load_rows(folder)
    if not layers_of(identity):
        raise InputError(
            f"{folder.location()}: these scores have no embeddings; score into another folder with --embeddings"
        )
    key = key_column(identity)
    table = read_parts(folder, part_files(folder, layout.EMBEDDINGS), _schema(identity), [key])
    positions = pc.index_in(table[key], value_set=rows["key"].combine_chunks())
    if positions.null_count:
        raise InputError(
            f"{folder.location(layout.EMBEDDINGS)}: {positions.null_count} embeddings have no score; "
            "score into an empty folder"
        )
    return EmbeddedRows(folder, identity, rows.take(positions))


def load_embeddings(folder: Folder, layer: str = layout.HEAD_LAYER) -> Embeddings:
    """Load the embeddings of a layer from a SCORES folder.

    Raises:
        InputError: the scores are incomplete, or have no embeddings or not those of this layer.
    """
    embedded = load_embedded_rows(folder)
    identity = embedded.identity
    return Embeddings(
        str(identity["system"]), folder.location(), identity, layer, embedded.rows, embedded.vectors(layer)
    )


def load_rows(folder: Folder) -> tuple[dict[str, Any], pa.Table]:
    """Load the description of complete scores, and every score with ROW_COLUMNS, labelled or not.

    Raises:
        InputError: the scores are incomplete or damaged.
    """
    identity = load_description(folder)
    table = load_columns(folder, identity, keyed_columns(identity, ROW_COLUMNS))
    return identity, keyed_rows(table, identity, ROW_COLUMNS)


def _schema(identity: Mapping[str, Any]) -> pa.Schema:
    return layout.embeddings_schema(key_column(identity), identity["embeddings"]["widths"])
