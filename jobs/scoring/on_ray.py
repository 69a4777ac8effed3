"""Decodes and scores on Ray: tasks decode, actors score."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.scoring.executor import ProcessDiedError
from jobs.scoring.inputs import AudioSource, DecodedPart
from jobs.scoring.parts import MAX_DECODING_RETRIES, PartScorer, ScorerSettings, SpanScores, decode_part
from jobs.scoring.pool import Machine, ScorerPool
from jobs.scoring.weights import get_detector, put_detector
from pipeline.storage import Folder

if TYPE_CHECKING:
    from ray import ObjectRef

    from pipeline.detector.network import Detector

Result = TypeVar("Result")


class RayExecutor:
    """The executor of the connected Ray."""

    def __init__(self, audio_source: AudioSource, out: Folder, detector: Detector) -> None:
        """Share the detector with all machines.

        Args:
            audio_source: decodes the audio.
            out: folder of the scores with the plan; of several, any one.
            detector: on the CPU.
        """
        self._audio_source, self._out = audio_source, out
        self._make_detector = functools.partial(get_detector, put_detector(detector))
        self._audio: dict[ObjectRef[DecodedPart], ObjectRef[Any]] = {}
        """The two results of each decoding."""

    def machines(self) -> list[Machine]:
        """See `Executor`."""
        resources = [node["Resources"] for node in _nodes()]
        return [Machine(int(each.get("CPU", 0)), each.get("GPU", 0.0)) for each in resources]

    def prepare(self, pool: ScorerPool) -> None:
        """See `Executor`."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # No reservation: the scorers of several jobs may hold all CPUs, and would wait for audio for ever.
        self._decode: Any = ray.remote(num_cpus=0, num_returns=2, max_retries=MAX_DECODING_RETRIES)(
            decode_part
        )
        self._places = itertools.cycle(
            [
                NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                for node in _nodes()
                if node["Resources"].get("CPU", 0) >= 1
            ]
            or ["DEFAULT"]
        )
        self._actor: Any = ray.remote(PartScorer).options(
            num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )

    def decode(self, part: int) -> ObjectRef[DecodedPart]:
        """See `Executor`."""
        call: ObjectRef[DecodedPart]
        decode = self._decode.options(scheduling_strategy=next(self._places))
        call, audio = decode.remote(self._audio_source, self._out, part)
        self._audio[call] = audio
        return call

    def decoded(self, call: ObjectRef[DecodedPart]) -> tuple[DecodedPart, ObjectRef[Any]]:
        """See `Executor`."""
        return _get(call), self._audio.pop(call)

    def start_scorer(self, settings: ScorerSettings) -> tuple[Any, ObjectRef[float]]:
        """See `Executor`."""
        scorer = self._actor.remote(self._make_detector, settings)
        return scorer, scorer.memory_limit.remote()

    def memory_limit(self, call: ObjectRef[float]) -> float:
        """See `Executor`."""
        return _get(call)

    def score(
        self,
        scorer: Any,
        audio: ObjectRef[Any],
        begin: int,
        end: int,
        policy: str,
        sample: Collection[int],
    ) -> ObjectRef[SpanScores | None]:
        """See `Executor`."""
        call: ObjectRef[SpanScores | None] = scorer.score.remote(audio, begin, end, policy, sample)
        return call

    def scores(self, call: ObjectRef[SpanScores | None]) -> SpanScores | None:
        """See `Executor`."""
        return _get(call)

    def stop_scorer(self, scorer: Any) -> None:
        """See `Executor`. Ray may have lost only the connection to a scorer that seems dead."""
        import ray

        ray.kill(scorer)

    def wait(self, calls: Collection[ObjectRef[Any]]) -> ObjectRef[Any]:
        """See `Executor`."""
        import ray

        [ended], _ = ray.wait(list(calls), num_returns=1, fetch_local=False)
        return ended


def _nodes() -> list[dict[str, Any]]:
    """The machines of the cluster that live."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _get(call: ObjectRef[Result]) -> Result:
    """The result of a call.

    Raises:
        ProcessDiedError: its process has died.
    """
    import ray

    try:
        return ray.get(call)
    except (
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
    ) as error:
        if getattr(error, "actor_init_failed", False):
            raise
        raise ProcessDiedError(str(error).strip().splitlines()[-1].strip()) from error
