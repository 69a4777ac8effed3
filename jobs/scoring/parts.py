"""A part of a scoring: how utterances are divided into parts, and how one part is decoded and scored. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.scoring.folder import missing_parts
from jobs.scoring.inputs import AudioSource, DecodedPart, Reject, Samples
from pipeline import tables
from pipeline.data.audio.waveform import PCM16_SCALE, SAMPLE_RATE, Waveform
from pipeline.detector.details import LOGITS_ONLY, Details
from pipeline.detector.memory import GIB
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import Calibration
from pipeline.progress import counted
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.network import Detector
    from pipeline.detector.scoring import Precision

MIN_SECONDS = 0.1
"""A scorer that cannot score even so much audio is not started."""

LARGEST_KEPT_BYTES = 256 * 2**20
"""On a CPU, freed blocks up to this size are kept for the next batch: those of an utterance of 40 s in float32."""

KEPT_SHARE = 1 / 16
"""Blocks are kept up to this share of the memory limit; together they took less than a third of it when measured."""

MAX_DECODING_RETRIES = 3
"""How often a part is decoded again after its process has died."""

OUT_OF_MEMORY = ("can't allocate memory", "std::bad_alloc")
"""What torch and oneDNN say on a CPU, in a RuntimeError; for GPUs, torch has an exception of its own."""

NOT_FINITE_REMEDY = (
    "the detector gives no number for it; use --precision fp32, or a detector that learnt at a lower rate"
)

LIMIT_REMEDY = "use --window window:SECONDS:mean, fewer --num-workers, or a machine with more memory"


@dataclass(frozen=True)
class ScorerSettings:
    """How one scoring process computes, and the memory that it may use."""

    device: str
    """cpu or cuda."""
    num_threads: int
    precision: Precision
    batch_seconds: float
    memory_bytes: float
    """For a forward pass; 0: measured when the process starts."""
    memory_share: float
    """Share of the free memory that the process may use if its memory is measured; the detector is part of it."""
    wanted: Details = LOGITS_ONLY
    """What is computed besides logits."""


@dataclass(frozen=True)
class SpanScores:
    """The scores of consecutive decoded utterances of a part."""

    logits: NDArray[np.float32]
    """[N, 2] of (spoof, bonafide); NaN for a reject."""
    rejects: dict[int, Reject] = field(default_factory=dict)
    """Position in the span → why it has no score."""
    vectors: dict[int, NDArray[np.float16]] = field(default_factory=dict)
    """Position of an utterance of the sample → the embeddings of all layers, one after the other."""
    frames: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Position → scores [F] of its frames, if they are wanted."""


@dataclass(frozen=True)
class Division:
    """How the rows of a plan are divided into parts, and which of these have no scores yet."""

    sizes: list[int]
    """Rows of each part."""
    seconds: list[float]
    """Audio of each part."""
    missing_of: dict[str, list[int]]
    """Window policy → parts that have no scores under it."""

    @property
    def missing(self) -> dict[int, list[str]]:
        """Parts without scores under some policy, in order → these policies."""
        policies: dict[int, list[str]] = {}
        for policy, missing in self.missing_of.items():
            for part in missing:
                policies.setdefault(part, []).append(policy)
        return dict(sorted(policies.items()))

    @property
    def missing_seconds(self) -> list[float]:
        """The audio of each missing part, once for each policy under which it is missing."""
        return [self.seconds[part] for missing in self.missing_of.values() for part in missing]

    def __str__(self) -> str:
        num_parts = len(self.sizes)
        lines = [
            f"{counted(num_parts, 'part')} planned, {num_parts - len(missing)} already scored, {len(missing)} to score"
            for missing in self.missing_of.values()
        ]
        if len(lines) == 1:
            return lines[0]
        return "\n".join(f"{policy}: {line}" for policy, line in zip(self.missing_of, lines, strict=True))


def divide_rows(rows: pa.Table, part_seconds: float, outs: Mapping[str, Folder]) -> Division:
    """Divide the rows of a plan into parts of about so much audio.

    Args:
        rows: rows of the plan.
        part_seconds: see `divide`.
        outs: window policy → folder of its scores, which may hold some parts.
    """
    seconds = rows["seconds"].to_numpy()
    sizes = divide(seconds, part_seconds)
    ends = np.cumsum(sizes)
    return Division(
        sizes,
        [float(seconds[end - size : end].sum()) for end, size in zip(ends, sizes, strict=True)],
        {policy: missing_parts(out, len(sizes)) for policy, out in outs.items()},
    )


def divide(seconds: NDArray[np.floating], group_seconds: float) -> list[int]:
    """Divide consecutive utterances into groups of similar duration.

    Args:
        seconds: duration of each utterance.
        group_seconds: a group has the utterances that start within this much audio, so its last one may overrun.

    Returns:
        The number of utterances in each group.
    """
    starts = np.cumsum(seconds, dtype=np.float64) - seconds
    return [int(count) for count in np.bincount((starts // group_seconds).astype(np.int64)) if count]


def decode_part(audio_source: AudioSource, out: Folder, part: int) -> tuple[DecodedPart, list[Samples]]:
    """Decode a part, longest utterance first; the audio is returned separately, because only scorers need it."""
    rows = tables.read_group(out, layout.PLAN, part).to_pylist()
    decoded = audio_source.decode(rows, out, layout.attempts_name(part))
    decoded.sort_by_length()
    audio, decoded.audio = decoded.audio, []
    return decoded, audio


class PartScorer:
    """Scores decoded utterances with one copy of the detector, within a limit of memory."""

    def __init__(self, make_detector: Callable[[], Detector], settings: ScorerSettings) -> None:
        """Load the detector.

        Args:
            make_detector: builds the detector, on the CPU.
            settings: device, precision, batches and memory.

        Raises:
            InputError: beside the detector, there is no memory for any audio.
        """
        import torch

        from pipeline.detector.allocator import keep_freed_memory
        from pipeline.detector.memory_limit import free_bytes
        from pipeline.detector.scoring import Scorer

        device = torch.device(settings.device)
        if settings.device == "cpu":
            torch.set_num_threads(settings.num_threads)
        free = free_bytes(device)
        detector = make_detector()
        num_weight_bytes = sum(tensor.nbytes for tensor in detector.state_dict().values())
        self.memory_bytes = settings.memory_bytes or settings.memory_share * free - num_weight_bytes
        self.scorer = Scorer(
            detector,
            device=device,
            precision=settings.precision,
            max_seconds=settings.batch_seconds,
            memory_bytes=self.memory_bytes,
        )
        if self.scorer.needed_bytes(round(MIN_SECONDS * SAMPLE_RATE)) > self.memory_bytes:
            raise InputError(
                f"a scorer has {max(0.0, self.memory_bytes) / GIB:.2f} GiB beside its detector of "
                f"{num_weight_bytes / GIB:.2f} GiB, too little for {MIN_SECONDS} s of audio; "
                f"{free / GIB:.2f} GiB are free; use fewer --num-workers, or a machine with more memory"
            )
        self.wanted = settings.wanted
        self._keeps_memory = settings.device == "cpu" and keep_freed_memory(
            min(LARGEST_KEPT_BYTES, int(KEPT_SHARE * self.memory_bytes))
        )

    def memory_limit(self) -> float:
        """The bytes that a forward pass may use."""
        return self.memory_bytes

    def score(
        self, audio: Sequence[Samples], begin: int, end: int, policy: str, sample: Collection[int]
    ) -> SpanScores | None:
        """Score the utterances from `begin` up to `end` under a window policy.

        Args:
            audio: of a part.
            begin: the first of them.
            end: one past the last.
            policy: as `WindowPolicy` writes it.
            sample: positions of the utterances that have embeddings, counted from `begin`.

        Returns:
            None if memory ran out although it was planned.
        """
        from pipeline.detector.windows import WindowPolicy

        scorer = self.scorer.under(WindowPolicy.parse(policy))
        scores = SpanScores(np.full((end - begin, 2), np.nan, np.float32))
        fitting = []
        needed = [scorer.needed_bytes(len(samples)) for samples in audio[begin:end]]
        for position, num_bytes in enumerate(needed):
            if num_bytes > self.memory_bytes:
                scores.rejects[position] = Reject(
                    "too_long_for_memory",
                    f"{len(audio[begin + position]) / SAMPLE_RATE:.1f} s need {num_bytes / GIB:.2f} GiB, and a scorer "
                    f"has {self.memory_bytes / GIB:.2f} GiB; {LIMIT_REMEDY}",
                )
            else:
                fitting.append(position)
        self._make_room(max((needed[position] for position in fitting), default=0))
        wanted = self.wanted if sample else replace(self.wanted, layers=())
        try:
            computed = scorer.compute([_to_waveform(audio[begin + position]) for position in fitting], wanted)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            return None
        scores.logits[fitting] = computed.logits
        for row, position in enumerate(fitting):
            if position in sample:
                vectors = [embedding_NE[row] for embedding_NE in computed.embeddings]
                scores.vectors[position] = to_float16(np.concatenate(vectors))
            if wanted.frames:
                scores.frames[position] = computed.frames[row]
            if not np.isfinite(scores.logits[position]).all():
                scores.logits[position] = np.nan
                scores.rejects[position] = Reject("not_finite", NOT_FINITE_REMEDY)
        return scores

    def _make_room(self, num_bytes: float) -> None:
        """Return what the C library keeps, if it might not fit beside what an utterance needs."""
        from pipeline.detector.allocator import return_freed_memory

        if self._keeps_memory and num_bytes > self.memory_bytes / 2:
            return_freed_memory()


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to float16; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY)


def _to_waveform(samples: Samples) -> Waveform:
    """Convert samples to float32 [num_samples] within ±1."""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(PCM16_SCALE)
    assert samples.dtype == np.float32
    return samples.view(np.float32)


def add_measurements(rows: pa.Table, lengths: Sequence[int], levels_dbfs: Sequence[float | None]) -> pa.Table:
    """Give rows of the plan the durations and levels of their decoded audio; the plan may have estimates."""
    measured = {
        "seconds": pa.array(np.array(lengths) / SAMPLE_RATE, pa.float32()),
        "level_dbfs": pa.array(levels_dbfs, pa.float32()),
    }
    columns = {name: rows[name] for name in rows.column_names} | measured
    return pa.table(columns)


def scores_table(
    rows: pa.Table, logits_N2: NDArray[np.float32], schema: pa.Schema, calibration: Calibration | None
) -> pa.Table:
    """Combine rows of the plan with their logits into the columns of the scores.

    Args:
        rows: of the plan.
        logits_N2: of spoof and bona fide.
        schema: the columns.
        calibration: turns scores into log-likelihood ratios and verdicts; without one, these are null.
    """
    columns = {name: rows[name] for name in schema.names if name in rows.schema.names}
    score_N = logits_N2[:, 1] - logits_N2[:, 0]
    columns |= {
        "logit_spoof": pa.array(logits_N2[:, 0]),
        "logit_bonafide": pa.array(logits_N2[:, 1]),
        "score": pa.array(score_N),
        "llr": pa.nulls(len(score_N)),
        "verdict": pa.nulls(len(score_N)),
    }
    if calibration is not None:
        llr_N = calibration.llr(score_N)
        columns["llr"] = pa.array(llr_N.astype(np.float32))
        if calibration.threshold is not None:
            is_bonafide_N = llr_N >= calibration.threshold.llr
            columns["verdict"] = pa.array(np.where(is_bonafide_N, "bonafide", "spoof"), pa.string())
    return pa.table(columns).select(schema.names).cast(schema)
