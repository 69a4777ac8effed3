"""Load the scores of frames that were written beside scores, and the regions of the utterances that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import tables
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.complete import (
    key_column,
    keyed_columns,
    keyed_rows,
    load_description,
    part_files,
    read_parts,
    score_columns,
)
from pipeline.metrics.timeline import (
    FRAME_S,
    FrameScores,
    NonSpeech,
    Regions,
    Timeline,
    make_timeline,
    smooth,
)
from pipeline.storage import Folder

ROW_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # the uid, or the path of a file that was scored with --audio
        *((name, pa.string()) for name in ("id", "corpus", "label", "attack")),
        ("seconds", pa.float32()),
        ("score", pa.float32()),
    ]
)
"""What is known of an utterance; null where it is not stated, such as the label of a file."""


@dataclass(frozen=True)
class Framed:
    """The scores of the frames of some utterances."""

    rows: pa.Table
    """One row per utterance, with ROW_COLUMNS."""
    scores: FrameScores
    """Of the utterances in the order of the rows, whose names are their ids. Where only the beginning of an utterance
    was scored, its duration is that of the beginning."""
    num_cut: int
    """Utterances of which only the beginning was scored."""


def has_frames(identity: Mapping[str, Any]) -> bool:
    """Whether the scores with this description have scores of frames beside them."""
    return bool(identity.get("frames"))


def load_frames(folder: Folder, keys: pa.Array | None = None) -> Framed:
    """Load the scores of frames from a SCORES folder.

    Args:
        folder: SCORES.
        keys: of the wanted utterances, which all have a score; default: all utterances.

    Raises:
        InputError: the scores are incomplete or damaged, or have no scores of frames.
    """
    parts = list(iter_frames(folder, keys))
    scores = [part.scores for part in parts]
    return Framed(
        pa.concat_tables([ROW_COLUMNS.empty_table(), *(part.rows for part in parts)]),
        FrameScores(
            [name for each in scores for name in each.utterances],
            np.concatenate([np.empty(0), *(each.durations_s for each in scores)]),
            np.concatenate([np.empty(0, np.int64), *(each.num_frames for each in scores)]),
            np.concatenate([np.empty(0), *(each.scores for each in scores)]),
            layout.FRAME_HOP_S,
        ),
        sum(part.num_cut for part in parts),
    )


def iter_frames(folder: Folder, keys: pa.Array | None = None) -> Iterator[Framed]:
    """Load the scores of frames part by part, like `load_frames`; parts without wanted utterances are left out."""
    identity = load_description(folder)
    if not has_frames(identity):
        raise InputError(
            f"{folder.location()}: these scores have no scores of frames; score into another folder with --frames"
        )
    columns = keyed_columns(identity, ROW_COLUMNS)
    for name in part_files(folder):
        table = read_parts(folder, [name], score_columns(identity), columns)
        rows = keyed_rows(table, identity, ROW_COLUMNS)
        if keys is not None:
            rows = rows.filter(pc.is_in(rows["key"], value_set=keys))
        if len(rows):
            yield _join(folder, name, rows, layout.frames_schema(key_column(identity), identity["frames"]))


def _join(folder: Folder, name: str, rows: pa.Table, schema: pa.Schema) -> Framed:
    """Load the scores of the frames of some rows of a part of the scores."""
    name = f"{layout.FRAMES}/{PurePosixPath(name).name}"
    where = folder.location(name)
    if not folder.exists(name):
        raise InputError(f"{where} is missing; score into an empty folder")
    table = read_parts(folder, [name], schema)
    positions = pc.index_in(rows["key"], value_set=table[schema.names[0]].combine_chunks())
    if positions.null_count:
        missing = rows["id"].filter(pc.is_null(positions))
        raise InputError(
            f"{where}: {len(missing)} utterances have no scores of frames, the first is {missing[0]}; "
            "score into an empty folder"
        )
    lists = table["scores"].combine_chunks().take(positions.combine_chunks())
    num_frames = pc.list_value_length(lists).to_numpy().astype(np.int64)
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    seconds = rows["seconds"].to_numpy().astype(np.float64)
    # Usually there is a frame for every 20 ms; under the window policy `first`, for the beginning only.
    is_cut = ~(seconds <= (num_frames + 1) * layout.FRAME_HOP_S + FRAME_S)
    durations_s = np.where(is_cut, num_frames * layout.FRAME_HOP_S, seconds)
    names = rows["id"].to_pylist()
    scores = FrameScores(names, durations_s, num_frames, values, layout.FRAME_HOP_S)
    return Framed(rows, scores, int(np.count_nonzero(is_cut)))


def load_regions(folder: Folder) -> pa.Table:
    """Load the regions of the utterances of a SCORES folder, with REGION_COLUMNS; none if none are known.

    Raises:
        InputError: their file is damaged.
    """
    if not folder.exists(layout.REGIONS):
        return layout.REGION_COLUMNS.empty_table()
    try:
        return tables.read_table(folder, layout.REGIONS).select(layout.REGION_COLUMNS.names)
    except (pa.ArrowException, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{folder.location(layout.REGIONS)}: not a Parquet file of regions: {reason}"
        ) from error


def regions_of(framed: Framed, table: pa.Table) -> Regions:
    """The regions of utterances with frames, up to the time that was scored; regions of other utterances are left out.

    Args:
        framed: the utterances.
        table: with REGION_COLUMNS.
    """
    positions = pc.index_in(table["uid"], value_set=framed.rows["key"].combine_chunks())
    is_known = pc.is_valid(positions)
    table, utterances = table.filter(is_known), positions.filter(is_known).to_numpy().astype(np.int64)
    starts_s, ends_s = table["start_s"].to_numpy(), table["end_s"].to_numpy()
    labels = np.array(table["label"].to_pylist(), dtype=np.str_)
    seconds = framed.rows["seconds"].to_numpy().astype(np.float64)[utterances]
    durations_s = framed.scores.durations_s[utterances]
    # A region beyond the whole utterance is left as it is: `make_timeline` refuses it.
    is_cut = (durations_s < seconds) & (ends_s <= seconds + layout.FRAME_HOP_S)
    ends_s = np.where(is_cut, np.minimum(ends_s, durations_s), ends_s)
    is_scored = ~is_cut | (starts_s < ends_s)
    return Regions(utterances[is_scored], starts_s[is_scored], ends_s[is_scored], labels[is_scored])


def timeline_of(
    framed: Framed, table: pa.Table, smoothing_s: float, non_speech: NonSpeech, where: str
) -> Timeline | None:
    """Put smoothed frames and the regions of their utterances on one axis.

    Args:
        framed: the utterances.
        table: regions, with REGION_COLUMNS.
        smoothing_s: window over which frames are averaged.
        non_speech: what regions of non-speech count as.
        where: the scores, for the message.

    Returns:
        None if no region has a label that counts.

    Raises:
        InputError: frames and regions do not fit together.
    """
    regions = regions_of(framed, table)
    if not np.any((regions.labels != "non_speech") | (non_speech == "bonafide")):
        return None
    try:
        return make_timeline(smooth(framed.scores, smoothing_s), regions, non_speech)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
