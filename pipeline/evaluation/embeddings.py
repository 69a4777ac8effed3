"""Load the embeddings that were written beside scores, and the utterances that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from pipeline.storage import Folder

ROW_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # the uid, or the path of a file that was scored with --audio
        *((name, pa.string()) for name in ("id", "path", "corpus", "label", "artifact", "attack")),
        *((name, pa.string()) for name in ("language", "speaker", "split")),
        ("seconds", pa.float32()),
        ("level_dbfs", pa.float32()),
        ("score", pa.float32()),
    ]
)
"""What is known of an utterance; null where it is not stated, such as the label of a file."""


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


def layers_of(identity: Mapping[str, Any]) -> list[str]:
    """The layers whose embeddings were written beside the scores with this description."""
    return list((identity.get("embeddings") or {}).get("layers", ()))


def load_embeddings(folder: Folder, layer: str = layout.HEAD_LAYER) -> Embeddings:
    """Load the embeddings of a layer from a SCORES folder.

    Raises:
        InputError: the scores are incomplete, or have no embeddings or not those of this layer.
    """
    identity, rows = load_rows(folder)
    layers = layers_of(identity)
    if not layers:
        raise InputError(
            f"{folder.location()}: these scores have no embeddings; score into another folder with --embeddings"
        )
    if layer not in layers:
        raise InputError(
            f"{folder.location()}: has no embeddings of layer {layer}, only of {', '.join(layers)}; "
            f"score into another folder with --layer {layer}"
        )
    key = key_column(identity)
    schema = layout.embeddings_schema(key, identity["embeddings"]["widths"])
    column = layout.layer_column(layer)
    table = read_parts(folder, part_files(folder, layout.EMBEDDINGS), schema, [key, column])
    positions = pc.index_in(table[key], value_set=rows["key"].combine_chunks())
    if positions.null_count:
        raise InputError(
            f"{folder.location(layout.EMBEDDINGS)}: {positions.null_count} embeddings have no score; "
            "score into an empty folder"
        )
    width = schema.field(column).type.list_size
    vectors = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[column].chunks]
    vectors_NE = np.concatenate([np.empty(0, np.float16), *vectors]).reshape(-1, width).astype(np.float32)
    return Embeddings(
        str(identity["system"]), folder.location(), identity, layer, rows.take(positions), vectors_NE
    )


def load_rows(folder: Folder) -> tuple[dict[str, Any], pa.Table]:
    """Load the description of complete scores, and every score with ROW_COLUMNS, labelled or not.

    Raises:
        InputError: the scores are incomplete or damaged.
    """
    identity = load_description(folder)
    table = load_columns(folder, identity, keyed_columns(identity, ROW_COLUMNS))
    return identity, keyed_rows(table, identity, ROW_COLUMNS)
