"""What is scored: a plan of rows, and a source of their audio."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.audio.waveform import PCM16_SCALE
from pipeline.storage import Folder

NUM_READERS = 16
"""Concurrent reads from storage per decoding task."""

LEVEL_SAMPLES = 2**20
"""Samples whose energy is summed in float32."""

Row = dict[str, Any]

Samples = NDArray[np.int16] | NDArray[np.float32]
"""[num_samples] 16 kHz mono; int16 samples span ±32768, float32 samples ±1."""


class Reject(NamedTuple):
    """Why a file or an utterance has no score."""

    reason: str
    detail: str


def to_reject_row(row: Row, reject: Reject, seconds: float | None = None) -> Row:
    """Combine a row of the plan with the reason why it has no score, as in `layout.REJECT_COLUMNS`.

    Args:
        row: at least the path.
        reject: the reason.
        seconds: the duration, if it is known exactly.
    """
    known = {name: row.get(name) for name in ("path", "corpus", "id")}
    return known | {"seconds": seconds} | reject._asdict()


@dataclass
class DecodedPart:
    """The audio of the rows of one part, and the reasons why some rows have none."""

    positions: list[int] = field(default_factory=list)
    """Positions of the decoded rows within the part."""
    lengths: list[int] = field(default_factory=list)
    """Number of samples of each decoded row."""
    levels_dbfs: list[float | None] = field(default_factory=list)
    """Level of each decoded row; see `layout.LEVEL_COLUMN`."""
    audio: list[Samples] = field(default_factory=list)
    """The samples of each decoded row."""
    rejects: list[Row] = field(default_factory=list)
    """One row per undecodable file, with `layout.REJECT_COLUMNS`."""

    def add(self, position: int, samples: Samples) -> None:
        """Add the audio of a row."""
        self.positions.append(position)
        self.lengths.append(len(samples))
        self.levels_dbfs.append(level_dbfs(samples))
        self.audio.append(samples)

    def sort_by_length(self) -> None:
        """Put the decoded rows into the order in which they are batched: longest first."""
        order = np.argsort(-np.array(self.lengths, np.int64), kind="stable").tolist()
        self.positions = [self.positions[index] for index in order]
        self.lengths = [self.lengths[index] for index in order]
        self.levels_dbfs = [self.levels_dbfs[index] for index in order]
        self.audio = [self.audio[index] for index in order]

    def reject(self, row: Row, reason: str, detail: str) -> None:
        """Record why a row has no audio."""
        self.rejects.append(to_reject_row(row, Reject(reason, detail)))


def level_dbfs(samples: Samples) -> float | None:
    """The root mean square of samples in dB relative to full scale; None for digital silence."""
    energy = 0.0
    for begin in range(0, len(samples), LEVEL_SAMPLES):
        block = samples[begin : begin + LEVEL_SAMPLES].astype(np.float32)
        energy += float(np.dot(block, block))
    full_scale = PCM16_SCALE if samples.dtype == np.int16 else 1.0
    return 10 * math.log10(energy / len(samples) / full_scale**2) if energy > 0 else None


class AudioSource(Protocol):
    """Reads and decodes the audio of a plan; sent to the workers that decode."""

    schema: pa.Schema
    """Columns of the scores."""
    key: str
    """The column that identifies an utterance or a file."""

    def decode(self, rows: Sequence[Row], out: Folder, marker: str) -> DecodedPart:
        """Read and decode some rows of the plan.

        Args:
            rows: rows of the plan.
            out: folder of the scores, which all workers share.
            marker: file in `out` that counts the workers that have started to decode this part.
        """


@dataclass(frozen=True)
class ScoringPlan:
    """The utterances or files of one scoring."""

    audio_source: AudioSource
    rows: pa.Table
    """Utterances or files to score; the column `seconds` has their durations."""
    rejects: list[Row]
    """Files that are known before decoding to have no score."""
    identity: dict[str, Any]
    """What the input contributes to the identity of the scores."""
    name: str
    """Name of the input, for display."""
    digest: str
    """Digest of the input for MLflow."""
    uri: str
    """Location of the input."""
    load_regions: Callable[[], pa.Table] | None = None
    """Loads the regions of the utterances, with the columns of `layout.REGION_COLUMNS`; None if they can have none."""

    @property
    def num_found(self) -> int:
        """Utterances or files in the input, with and without a score."""
        return len(self.rows) + len(self.rejects)
