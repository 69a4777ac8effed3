"""What is written beside the scores: embeddings of a sample of utterances, and the scores of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.scoring.config import ALL, NONE, ScoreConfig
from jobs.scoring.inputs import Row, ScoringPlan
from pipeline import tables
from pipeline.detector.details import HEAD, SPECTRUM, Details
from pipeline.evaluation import layout
from pipeline.sampling import hash_texts, rank_in_group

if TYPE_CHECKING:
    from pipeline.detector.network import Detector

GROUP = ("corpus", "label", "attack")
"""Utterances that agree in these columns are a group, of which at most so many have embeddings."""


@dataclass(frozen=True)
class DetailSettings:
    """Which details are written beside the scores."""

    key: str
    """Column of the scores that identifies an utterance."""
    widths: Mapping[str, int]
    """Layer → channels of its embedding; empty if no embeddings are written."""
    per_group: int | None
    """At most so many utterances of a group have embeddings; None: all."""
    frames: layout.FramePrecision | None
    """Precision of the scores of frames; None if they are not written."""

    @property
    def wanted(self) -> Details:
        """What scorers compute."""
        return Details(tuple(self.widths), self.frames is not None)

    def identity(self) -> dict[str, Any]:
        """What they contribute to the identity of the scores."""
        embeddings = {"layers": list(self.widths), "per_group": self.per_group} if self.widths else None
        return {"embeddings": embeddings, "frames": self.frames}

    def choose_sample(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Which rows [N] of a plan have embeddings: of each group those with the lowest hash of their key."""
        if not self.widths:
            return np.zeros(len(rows), bool)
        if self.per_group is None:
            return np.ones(len(rows), bool)
        rank, _ = rank_in_group(_group_numbers(rows), hash_texts(rows[self.key], "embedding"))
        is_chosen: NDArray[np.bool_] = rank < self.per_group
        return is_chosen

    def count_sample(self, rows: pa.Table, rejects: Sequence[Row]) -> int:
        """Count the rows of a plan that have embeddings; those that were rejected have none."""
        rejected = {_name_of(reject) for reject in rejects}
        names = [name for name in ("corpus", "path", "id") if name in rows.column_names]
        chosen = rows.select(names).filter(pa.array(self.choose_sample(rows)))
        return sum(_name_of(row) not in rejected for row in tables.iter_rows(chosen))

    def choose_regions(self, plan: ScoringPlan) -> pa.Table | None:
        """The regions of the utterances of a plan, if frames are written whose scores they label."""
        if self.frames is None or plan.load_regions is None:
            return None
        regions = plan.load_regions()
        return regions.filter(pc.is_in(regions["uid"], value_set=plan.rows["uid"].combine_chunks()))

    def embeddings_table(self, keys: pa.ChunkedArray, vectors: Sequence[NDArray[np.float16]]) -> pa.Table:
        """Combine embeddings into the columns of their file.

        Args:
            keys: of N utterances.
            vectors: for each, the embeddings [X] of all layers, one after the other.
        """
        schema = layout.embeddings_schema(self.key, self.widths)
        if not vectors:
            return schema.empty_table()
        parts = np.split(np.stack(vectors), np.cumsum(list(self.widths.values()))[:-1], axis=1)
        columns = [
            pa.FixedSizeListArray.from_arrays(pa.array(part_NE.reshape(-1)), part_NE.shape[1])
            for part_NE in parts
        ]
        return pa.table([keys, *columns], schema=schema)

    def frames_table(self, keys: pa.ChunkedArray, scores: Sequence[NDArray[np.float32]]) -> pa.Table:
        """Combine the scores [F] of the frames of each of N utterances into the columns of their file."""
        if self.frames is None:
            return layout.frames_schema(self.key, "float32").empty_table()
        schema = layout.frames_schema(self.key, self.frames)
        offsets = np.cumsum([0, *map(len, scores)]).astype(np.int32)
        values = np.concatenate([np.empty(0, np.float32), *scores]).astype(self.frames)
        return pa.table([keys, pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))], schema=schema)


def choose_details(config: ScoreConfig, detector: Detector, key: str) -> DetailSettings:
    """Choose what is written beside the scores.

    Args:
        config: settings of the command.
        detector: computes it.
        key: see `DetailSettings`.

    Raises:
        InputError: the detector has no such layer, or its head does not classify single frames.
    """
    from pipeline.detector.scoring import check_details

    layers: Sequence[str] = ()
    if config.embeddings != NONE:
        num_layers = detector.config.front_end.num_layers
        layers = (
            [HEAD, SPECTRUM, *map(str, range(num_layers + 1))] if config.layer == (ALL,) else config.layer
        )
    frames = None if config.frames == "none" else config.frames
    return DetailSettings(
        key,
        check_details(detector, Details(tuple(layers), frames is not None)),
        None if config.embeddings in (NONE, ALL) else int(config.embeddings),
        frames,
    )


def _name_of(row: Row) -> tuple[str | None, ...]:
    """What identifies a row of a plan among rejects."""
    return tuple(row.get(name) for name in ("corpus", "path", "id"))


def _group_numbers(rows: pa.Table) -> NDArray[np.int64]:
    """Number the groups of rows [N] from 0."""
    numbers = np.zeros(len(rows), np.int64)
    for name in GROUP:
        if name in rows.column_names:
            codes = rows[name].combine_chunks().dictionary_encode(null_encoding="encode")
            numbers = numbers * max(1, len(codes.dictionary)) + codes.indices.to_numpy()
    return np.unique(numbers, return_inverse=True)[1]
