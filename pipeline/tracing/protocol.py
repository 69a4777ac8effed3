"""Read the source-tracing protocol of MLAAD: which system made a file, and whether it is in the gallery or new.

The folder has train.csv, dev.csv and eval.csv with the columns path, model_name and model_id (Interspeech 2025, special
session on source tracing). Systems that are not in train.csv are unknown ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from pipeline.errors import InputError
from pipeline.storage import Folder
from pipeline.tracing.names import AMBIGUOUS, Names

GALLERY_FILE, NEW_FILE = "train.csv", "eval.csv"
"""Who is in the gallery, and who is traced; dev.csv decides nothing here."""

PATH, SYSTEM = "path", "model_name"


class Protocol(NamedTuple):
    """The systems of the files of one list, and where their utterances are."""

    positions: NDArray[np.int64]
    """Of the utterances that were found, ascending."""
    systems: pa.Array
    """Of each of them."""
    num_missing: int
    """Files of the list that are not among the utterances, or not with certainty."""


def load_protocol(location: str, file: str, rows: pa.Table) -> Protocol:
    """Find the utterances of one list of the protocol.

    Args:
        location: folder of the lists.
        file: GALLERY_FILE or NEW_FILE.
        rows: utterances with embeddings.

    Raises:
        InputError: the file does not exist, is no such list, or names no utterance with an embedding.
    """
    folder = Folder(location)
    where = folder.location(file)
    if not folder.exists(file):
        raise InputError(
            f"{where}: does not exist; --protocol is the folder that has {GALLERY_FILE} and {NEW_FILE} of MLAAD"
        )
    options = csv.ConvertOptions(column_types={PATH: pa.string(), SYSTEM: pa.string()})
    try:
        table = csv.read_csv(pa.BufferReader(folder.read(file)), convert_options=options)
        paths, systems = (table[name].to_pylist() for name in (PATH, SYSTEM))
    except (pa.ArrowException, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: not a CSV with the columns {PATH} and {SYSTEM}: {reason}") from error
    found = Names(rows).find([path or "" for path in paths])
    # Two lines that name one utterance would count it twice.
    first: dict[int, str] = {}
    for position, system in zip(found.tolist(), systems, strict=True):
        if position >= 0 and system:
            first.setdefault(position, system)
    if not first:
        why = (
            "they fit several utterances" if (found == AMBIGUOUS).any() else "are the scores of this corpus?"
        )
        raise InputError(f"{where}: none of its {len(paths)} files has an embedding; {why}")
    positions = np.array(sorted(first), np.int64)
    return Protocol(
        positions, pa.array([first[at] for at in positions.tolist()], pa.string()), len(paths) - len(first)
    )
