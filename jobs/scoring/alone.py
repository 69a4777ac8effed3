"""Decodes and scores on this machine alone, without Ray, whose start takes longer than a handful of files."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.devices import usable_cpus
from jobs.ray_session import has_ray
from jobs.scoring.executor import ProcessDiedError
from jobs.scoring.inputs import AudioSource, DecodedPart, Samples
from jobs.scoring.parts import MAX_DECODING_RETRIES, PartScorer, ScorerSettings, SpanScores, decode_part
from jobs.scoring.pool import Machine, ScorerPool
from pipeline.child_process import ChildProcess, preload
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.network import Detector

Result = TypeVar("Result")

PRELOADED = ("jobs.scoring.parts", "pipeline.detector.scoring", "pipeline.detector.memory_limit")
"""What scoring processes import: above all torch, which takes seconds."""


def is_enough(num_parts: int) -> bool:
    """Whether this machine does without Ray: a single part is no work to share, unless Ray runs already."""
    return num_parts <= 1 and not has_ray()


def prepare_processes() -> None:
    """Begin to import beside this process what its children need."""
    preload(PRELOADED)


class AloneExecutor:
    """The executor of one machine: one process decodes a part, and another one scores it. A context."""

    def __init__(self, audio_source: AudioSource, out: Folder, make_detector: Callable[[], Detector]) -> None:
        """Start nothing yet.

        Args:
            audio_source: decodes the audio.
            out: folder of the scores with the plan; of several, any one.
            make_detector: builds the detector, on the CPU; scoring processes call it.
        """
        self._audio_source, self._out, self._make_detector = audio_source, out, make_detector
        self._processes: list[ChildProcess] = []
        self._scorer_of: dict[Future[Any], ChildProcess] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor()
        self._is_closed = False

    def __enter__(self) -> AloneExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_closed = True  # before: a decoder that is killed here must not be replaced
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()

    def machines(self) -> list[Machine]:
        """See `Executor`."""
        import torch

        return [Machine(usable_cpus(), torch.cuda.device_count())]

    def prepare(self, pool: ScorerPool) -> None:
        """See `Executor`; children of this process reserve nothing."""

    def decode(self, part: int) -> Future[tuple[DecodedPart, list[Samples]]]:
        """See `Executor`."""
        return self._threads.submit(self._decode, part)

    def _decode(self, part: int) -> tuple[DecodedPart, list[Samples]]:
        num_tries = MAX_DECODING_RETRIES + 1
        for _ in range(num_tries):
            process = self._start()
            call = process.submit(decode_part, self._audio_source, self._out, part)
            try:
                return call.result()
            except BrokenProcessPool:
                cause = process.cause_of_death()
            finally:
                process.kill()
        raise ProcessDiedError(cause)

    def decoded(self, call: Future[tuple[DecodedPart, list[Samples]]]) -> tuple[DecodedPart, list[Samples]]:
        """See `Executor`."""
        return call.result()

    def start_scorer(self, settings: ScorerSettings) -> tuple[ChildProcess, Future[float]]:
        """See `Executor`."""
        scorer = self._start()
        call = scorer.submit(_start_scorer, PartScorer, self._make_detector, settings)
        self._scorer_of[call] = scorer
        return scorer, call

    def memory_limit(self, call: Future[float]) -> float:
        """See `Executor`."""
        return self._result(call)

    def score(
        self,
        scorer: ChildProcess,
        audio: list[Samples],
        begin: int,
        end: int,
        policy: str,
        sample: Collection[int],
    ) -> Future[SpanScores | None]:
        """See `Executor`."""
        call = scorer.submit(_score, audio[begin:end], policy, sample)
        self._scorer_of[call] = scorer
        return call

    def scores(self, call: Future[SpanScores | None]) -> SpanScores | None:
        """See `Executor`."""
        return self._result(call)

    def stop_scorer(self, scorer: ChildProcess) -> None:
        """See `Executor`."""
        scorer.kill()

    def wait(self, calls: Collection[Future[Any]]) -> Future[Any]:
        """See `Executor`."""
        return concurrent.futures.wait(calls, return_when=concurrent.futures.FIRST_COMPLETED).done.pop()

    def _start(self) -> ChildProcess:
        process = ChildProcess("forkserver")
        self._processes.append(process)
        if self._is_closed:
            raise ProcessDiedError("the command is ending")
        return process

    def _result(self, call: Future[Result]) -> Result:
        scorer = self._scorer_of.pop(call)
        try:
            return call.result()
        except BrokenProcessPool as error:
            raise ProcessDiedError(scorer.cause_of_death()) from error


_scorer: PartScorer
"""Of a scoring process."""


def _start_scorer(
    scorer_class: type[PartScorer], make_detector: Callable[[], Detector], settings: ScorerSettings
) -> float:
    global _scorer
    _scorer = scorer_class(make_detector, settings)
    return _scorer.memory_limit()


def _score(audio: list[Samples], policy: str, sample: Collection[int]) -> SpanScores | None:
    return _scorer.score(audio, 0, len(audio), policy, sample)
