"""Scorers that die: stand-ins without a detector, so that each of their processes starts fast."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Sequence

import numpy as np

from jobs.scoring.inputs import Samples
from jobs.scoring.parts import PartScorer, SpanScores

DEADLY_SAMPLES = 12_345
"""Length of the utterance that no scorer survives."""


def die() -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_decoding(*_: object) -> None:
    """Die in the place of `decode_part`."""
    die()


class DeadlyScorer(PartScorer):
    """Gives every utterance its length as score, and dies of one length when it is scored in one piece."""

    def __init__(self, *_: object) -> None:
        self.memory_bytes = 2.0**30

    def score(
        self,
        audio: Sequence[Samples],
        begin: int,
        end: int,
        policy: str,
        sample: Collection[int],  # noqa: ARG002
    ) -> SpanScores:
        """Score, or die."""
        lengths = [len(samples) for samples in audio[begin:end]]
        if DEADLY_SAMPLES in lengths and policy == "whole":
            die()
        return SpanScores(np.array([[0, length] for length in lengths], np.float32))


class ShortOfMemoryScorer(DeadlyScorer):
    """Runs out of memory instead of dying."""

    def score(  # type: ignore[override]
        self, audio: Sequence[Samples], begin: int, end: int, policy: str, sample: Collection[int]
    ) -> SpanScores | None:
        """Score, or run out of memory."""
        is_deadly = any(len(samples) == DEADLY_SAMPLES for samples in audio[begin:end])
        return None if is_deadly and policy == "whole" else super().score(audio, begin, end, policy, sample)


class StillbornScorer(PartScorer):
    """Dies before it has loaded anything."""

    def __init__(self, *_: object) -> None:
        die()
