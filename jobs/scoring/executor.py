"""What the scoring loop asks of the processes that decode and score: on this machine alone, or on Ray."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from jobs.scoring.inputs import DecodedPart
from jobs.scoring.parts import ScorerSettings, SpanScores
from jobs.scoring.pool import Machine, ScorerPool

Call = Any
"""Something that a process has been asked to do; hashable."""

Audio = Any
"""The decoded audio of a part, wherever it is kept."""

ScorerHandle = Any
"""A scoring process."""


class ProcessDiedError(Exception):
    """The process of a call has died; the message tells how."""


class Executor(Protocol):
    """Starts processes and calls, and waits for them.

    A call that fails raises its exception when its result is asked for; `ProcessDiedError` if its process has died.
    """

    def machines(self) -> list[Machine]:
        """What there is for processes."""

    def prepare(self, pool: ScorerPool) -> None:
        """Learn how processes share the machines; called once, before any other call."""

    def decode(self, part: int) -> Call:
        """Begin to decode a part; if its process dies, another one tries it, a bounded number of times."""

    def decoded(self, call: Call) -> tuple[DecodedPart, Audio]:
        """The result of `decode`; the audio is apart from it."""

    def start_scorer(self, settings: ScorerSettings) -> tuple[ScorerHandle, Call]:
        """Begin to load a detector in a process of its own."""

    def memory_limit(self, call: Call) -> float:
        """The second result of `start_scorer`: bytes that the process may use for a forward pass."""

    def score(
        self,
        scorer: ScorerHandle,
        audio: Audio,
        begin: int,
        end: int,
        policy: str,
        sample: Collection[int],
    ) -> Call:
        """Begin to score the utterances of a part from `begin` up to `end`; see `PartScorer.score`."""

    def scores(self, call: Call) -> SpanScores | None:
        """The result of `score`; None if memory ran out."""

    def stop_scorer(self, scorer: ScorerHandle) -> None:
        """End a scoring process, if it still lives."""

    def wait(self, calls: Collection[Call]) -> Call:
        """Wait until one of some calls has ended, well or badly."""
