"""Scores parts: processes decode ahead, others score, and this loop writes each part when all of it is settled.

Everything is tried a bounded number of times. When a scorer dies, the utterances that it was scoring are tried once
more by another; then they are split into pieces, until the one that kills scorers is found and rejected. Its
neighbours get their scores.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.ray_session import cluster_use
from jobs.scoring.details import DetailSettings
from jobs.scoring.executor import Audio, Call, Executor, ProcessDiedError, ScorerHandle
from jobs.scoring.folder import PartTables, write_part
from jobs.scoring.inputs import Reject, Row, ScoringPlan, to_reject_row
from jobs.scoring.parts import (
    LIMIT_REMEDY,
    MAX_DECODING_RETRIES,
    Division,
    ScorerSettings,
    SpanScores,
    add_measurements,
    divide,
    scores_table,
)
from jobs.scoring.pool import ScorerPool
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import Calibration
from pipeline.progress import Progress
from pipeline.storage import Folder

MAX_DEATHS = 2
"""Utterances that were being scored when so many scorers died are split, or rejected if it is a single one."""

NUM_PIECES = 16
"""Utterances are split into at most so many pieces."""

MAX_DEATHS_IN_ROW = 20
"""Give up after so many deaths without a score in between; one bad utterance causes at most 6 in a part of 256."""

MAX_FAILED_STARTS = 3
"""Give up after so many scorers in a row have died while they loaded the detector."""

AHEAD_BYTES = 512 * 2**20
"""Decoded audio that may wait for each scorer."""

SAMPLE_BYTES = 4
"""Bytes of a decoded sample, or half of them for a store."""


def score_parts(
    plan: ScoringPlan,
    division: Division,
    outs: Mapping[str, Folder],
    calibrations: Mapping[str, Calibration],
    details: DetailSettings,
    executor: Executor,
    pool: ScorerPool,
) -> dict[str, float]:
    """Score the missing parts; each is decoded once, and scored under every window policy under which it is missing.

    Args:
        plan: what to score.
        division: its parts.
        outs: window policy → folder of its scores.
        calibrations: window policy → calibration of its scores; some have none.
        details: what is written beside the scores.
        executor: starts the processes.
        pool: number of processes and settings.

    Returns:
        Seconds of audio that were scored now, by window policy.

    Raises:
        InputError: scorers die whatever they score, or a part cannot be decoded.
    """
    return _Loop(plan, division, outs, calibrations, details, executor, pool).run()


@dataclass(frozen=True)
class Span:
    """Consecutive utterances of a decoded part, longest first, which one call scores under one window policy."""

    part: int
    policy: str
    begin: int
    end: int
    num_deaths: int = 0
    """Scorers that have died with exactly these utterances."""

    def __len__(self) -> int:
        return self.end - self.begin

    def split(self) -> list[Span]:
        """Divide the span into at most `NUM_PIECES` pieces of similar size."""
        bounds = np.linspace(self.begin, self.end, min(NUM_PIECES, len(self)) + 1).astype(int).tolist()
        return [Span(self.part, self.policy, begin, end) for begin, end in itertools.pairwise(bounds)]


@dataclass
class _OpenResult:
    """The scores of a part under one window policy, not written yet."""

    logits: NDArray[np.float32]
    """[N, 2]; NaN where there is no score."""
    num_left: int
    """Decoded rows that have neither a score nor a reject yet."""
    rejects: list[Row]
    vectors: dict[int, NDArray[np.float16]] = field(default_factory=dict)
    """Position of a decoded row → its embeddings."""
    frames: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Position of a decoded row → scores of its frames."""


@dataclass
class _OpenPart:
    """A part that is decoded and not written yet under every window policy."""

    rows: pa.Table
    """Its decoded rows of the plan, longest first."""
    positions: list[int]
    """Of the decoded rows in the part."""
    audio: Audio
    lengths: list[int]
    """Samples of each decoded row."""
    is_sampled: NDArray[np.bool_]
    """Whether each decoded row has embeddings."""
    results: dict[str, _OpenResult]
    """By window policy; those that are written are removed."""

    def reject(self, policy: str, position: int, reject: Reject) -> None:
        """Record why a decoded row has no score under a policy."""
        row = self.rows.slice(position, 1).to_pylist()[0]
        rejects = self.results[policy].rejects
        rejects.append(to_reject_row(row, reject, self.lengths[position] / SAMPLE_RATE))


@dataclass
class _Slot:
    """The place of one scorer; a scorer that dies is replaced by one with the same limit of memory."""

    scorer: ScorerHandle
    settings: ScorerSettings


class _Loop:
    """The state of `score_parts`."""

    def __init__(
        self,
        plan: ScoringPlan,
        division: Division,
        outs: Mapping[str, Folder],
        calibrations: Mapping[str, Calibration],
        details: DetailSettings,
        executor: Executor,
        pool: ScorerPool,
    ) -> None:
        self._plan, self._outs, self._executor, self._pool = plan, outs, executor, pool
        self._calibrations, self._details = calibrations, details
        self._is_sampled = details.choose_sample(plan.rows)
        ends = np.cumsum(division.sizes)
        self._starts = (ends - division.sizes).tolist()
        self._rows_of = [
            plan.rows.slice(int(end) - size, size) for end, size in zip(ends, division.sizes, strict=True)
        ]
        self._policies_of = division.missing
        self._to_decode = deque(self._policies_of)
        self._audio_s = dict.fromkeys(outs, 0.0)
        self._pending: dict[Call, Callable[[], None]] = {}
        """Calls that processes are working on, and what handles their results."""
        self._decoding_bytes: dict[int, int] = {}
        """Part that is being decoded → estimated bytes of its audio."""
        self._open: dict[int, _OpenPart] = {}
        self._to_score: deque[Span] = deque()
        self._idle: list[_Slot] = []
        self._slots: list[_Slot] = []
        self._num_deaths_in_row = 0
        self._num_failed_starts = 0

    def run(self) -> dict[str, float]:
        """Score the missing parts; returns the seconds of audio by window policy."""
        total = sum(len(self._rows_of[part]) * len(policies) for part, policies in self._policies_of.items())
        unit = "utterance" if len(self._outs) == 1 else "score"
        self._executor.prepare(self._pool)
        with Progress("scoring", total, unit, cluster_use) as self._progress:
            try:
                for _ in range(self._pool.num_workers):
                    self._slots.append(_Slot(None, self._pool.settings))
                    self._start(self._slots[-1])
                while self._to_decode or self._decoding_bytes or self._open:
                    self._decode_ahead()
                    self._assign()
                    self._pending.pop(self._executor.wait(self._pending))()
            finally:
                for slot in self._slots:
                    self._executor.stop_scorer(slot.scorer)
        return self._audio_s

    def _start(self, slot: _Slot) -> None:
        slot.scorer, call = self._executor.start_scorer(slot.settings)
        self._pending[call] = functools.partial(self._on_started, slot, call)

    def _on_started(self, slot: _Slot, call: Call) -> None:
        try:
            memory_bytes = self._executor.memory_limit(call)
        except ProcessDiedError as error:
            self._num_failed_starts += 1
            if self._num_failed_starts == MAX_FAILED_STARTS:
                raise InputError(
                    f"{MAX_FAILED_STARTS} scorers in a row died while they loaded the detector; {LIMIT_REMEDY}"
                ) from error
            self._start(slot)
            return
        self._num_failed_starts = 0
        slot.settings = replace(slot.settings, memory_bytes=memory_bytes)
        self._idle.append(slot)

    def _decode_ahead(self) -> None:
        """Decode parts while the audio in memory is within its bound; at least one ahead of the scorers."""
        limit = AHEAD_BYTES * len(self._slots)
        while self._to_decode and len(self._decoding_bytes) < self._pool.num_decoders:
            num_bytes = sum(self._decoding_bytes.values())
            num_bytes += sum(SAMPLE_BYTES * sum(part.lengths) for part in self._open.values())
            if len(self._decoding_bytes) + len(self._open) > len(self._slots) and num_bytes > limit:
                return
            if len(self._decoding_bytes) + len(self._open) > 3 * len(self._slots):
                return
            part = self._to_decode.popleft()
            seconds = float(np.sum(self._rows_of[part]["seconds"].to_numpy(), dtype=np.float64))
            self._decoding_bytes[part] = int(seconds * SAMPLE_RATE * SAMPLE_BYTES)
            call = self._executor.decode(part)
            self._pending[call] = functools.partial(self._on_decoded, part, call)

    def _on_decoded(self, part: int, call: Call) -> None:
        try:
            decoded, audio = self._executor.decoded(call)
        except ProcessDiedError as error:
            first = self._rows_of[part]["path"][0].as_py()
            raise InputError(
                f"part {part}, which begins with {first}, cannot be decoded: the decoding process died "
                f"{MAX_DECODING_RETRIES + 1} times; use a smaller --part-seconds, or a machine with more memory"
            ) from error
        del self._decoding_bytes[part]
        num_decoded = len(decoded.positions)
        positions = np.array(decoded.positions, np.int64)
        rows = self._rows_of[part].take(pa.array(positions))
        self._open[part] = _OpenPart(
            rows=add_measurements(rows, decoded.lengths, decoded.levels_dbfs),
            positions=decoded.positions,
            audio=audio,
            lengths=decoded.lengths,
            is_sampled=self._is_sampled[self._starts[part] + positions],
            results={
                policy: _OpenResult(
                    np.full((num_decoded, 2), np.nan, np.float32), num_decoded, [*decoded.rejects]
                )
                for policy in self._policies_of[part]
            },
        )
        seconds = np.array(decoded.lengths) / SAMPLE_RATE
        bounds = np.cumsum([0, *divide(seconds, self._pool.span_seconds)]).tolist()
        for (begin, end), policy in itertools.product(itertools.pairwise(bounds), self._policies_of[part]):
            self._to_score.append(Span(part, policy, begin, end))
        if not num_decoded:
            for policy in self._policies_of[part]:
                self._write(part, policy)

    def _assign(self) -> None:
        while self._idle and self._to_score:
            slot, span = self._idle.pop(), self._to_score.popleft()
            part = self._open[span.part]
            sample = np.flatnonzero(part.is_sampled[span.begin : span.end]).tolist()
            call = self._executor.score(
                slot.scorer, part.audio, span.begin, span.end, span.policy, frozenset(sample)
            )
            self._pending[call] = functools.partial(self._on_scored, slot, span, call)

    def _on_scored(self, slot: _Slot, span: Span, call: Call) -> None:
        try:
            scores = self._executor.scores(call)
        except ProcessDiedError as error:
            self._after_death(slot, span, error)
            return
        self._idle.append(slot)
        self._assign()  # before the scores are written, which takes a while on S3
        if scores is None:
            self._split(span, Reject("out_of_memory", f"alone, it did not fit after all; {LIMIT_REMEDY}"))
        else:
            self._num_deaths_in_row = 0
            self._settle(span, scores)

    def _after_death(self, slot: _Slot, span: Span, error: ProcessDiedError) -> None:
        """Replace a scorer that died, and decide what becomes of the utterances that it was scoring."""
        self._executor.stop_scorer(slot.scorer)
        print(f"a scorer died while it scored {self._name(span)}", file=sys.stderr, flush=True)
        self._num_deaths_in_row += 1
        if self._num_deaths_in_row == MAX_DEATHS_IN_ROW:
            raise InputError(
                f"{MAX_DEATHS_IN_ROW} scorers died without a score, the last of them while it scored "
                f"{self._name(span)}; check the memory of its machine, use fewer --num-workers or less --memory-gib"
            ) from error
        self._start(slot)
        span = replace(span, num_deaths=span.num_deaths + 1)
        if span.num_deaths < MAX_DEATHS:
            self._to_score.appendleft(span)
            return
        self._split(span, Reject("kills_scorer", f"{span.num_deaths} scorers died with it alone: {error}"))

    def _split(self, span: Span, reject: Reject) -> None:
        """Score the pieces of a span by themselves; reject a single utterance."""
        if len(span) > 1:
            self._to_score.extendleft(reversed(span.split()))
        else:
            self._settle(span, SpanScores(np.full((1, 2), np.nan, np.float32), {0: reject}))

    def _settle(self, span: Span, scores: SpanScores) -> None:
        part = self._open[span.part]
        result = part.results[span.policy]
        result.logits[span.begin : span.end] = scores.logits
        result.vectors |= {span.begin + position: each for position, each in scores.vectors.items()}
        result.frames |= {span.begin + position: each for position, each in scores.frames.items()}
        for position, reject in scores.rejects.items():
            part.reject(span.policy, span.begin + position, reject)
        result.num_left -= len(span)
        if not result.num_left:
            self._write(span.part, span.policy)

    def _write(self, number: int, policy: str) -> None:
        """Write a part of which every utterance has a score or a reject under a policy."""
        part = self._open[number]
        result = part.results.pop(policy)
        if not part.results:
            del self._open[number]
        in_order = np.argsort(np.array(part.positions, np.int64))
        scored = in_order[~np.isnan(result.logits[in_order, 0])]
        write_part(self._outs[policy], number, self._tables(part.rows, result, scored, policy))
        audio_s = sum(part.lengths[position] for position in scored) / SAMPLE_RATE
        self._audio_s[policy] += audio_s
        self._progress.add(len(self._rows_of[number]), audio_s=audio_s, num_rejected=len(result.rejects))

    def _tables(
        self, rows: pa.Table, result: _OpenResult, scored: NDArray[np.int64], policy: str
    ) -> PartTables:
        """What is written of a part: its decoded rows, and which of them have a score, in order."""
        source, details = self._plan.audio_source, self._details
        rows_scored = rows.take(pa.array(scored))
        embedded = [row for row in scored if row in result.vectors and np.isfinite(result.vectors[row]).all()]
        keys_embedded = rows[source.key].take(pa.array(embedded, pa.int64()))
        frames = [result.frames[row] for row in scored] if details.frames else []
        return PartTables(
            scores_table(rows_scored, result.logits[scored], source.schema, self._calibrations.get(policy)),
            pa.Table.from_pylist(result.rejects, layout.REJECT_COLUMNS),
            details.embeddings_table(keys_embedded, [result.vectors[row] for row in embedded]),
            details.frames_table(rows_scored[source.key], frames),
        )

    def _name(self, span: Span) -> str:
        row = self._open[span.part].rows.slice(span.begin, 1).to_pylist()[0]
        name = f"{row['corpus']}/{row['path']}" if "corpus" in row else row["path"]
        if len(span) > 1:
            name = f"{len(span)} utterances of part {span.part}, from {name}"
        return name if len(self._outs) == 1 else f"{name}, under {span.policy}"
