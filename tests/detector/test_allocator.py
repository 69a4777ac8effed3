"""A scoring process keeps freed memory for its next batch, and returns it to make room for a long utterance."""

from __future__ import annotations

import platform
from dataclasses import replace

import numpy as np
import pytest

from jobs.scoring.parts import PartScorer, ScorerSettings
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.allocator import DEFAULT_BLOCK_BYTES, keep_freed_memory, return_freed_memory
from pipeline.detector.memory import Inference
from pipeline.detector.network import Detector, DetectorConfig
from pipeline.detector.variants import VARIANTS
from tests.detector.fresh_process import forget_peak, needs_peaks, peak_bytes, printed_by, resident_bytes

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory"
)

MIB = 2**20

SHALLOW = replace(VARIANTS["w2v_small"], num_layers=1, ffn_width=768)
"""Convolutions as published, with one layer."""


def print_resident() -> None:
    """Print the MiB that stay resident of a freed block: as glibc does, then kept, then returned."""
    before = resident_bytes()

    def print_rest() -> None:
        print((resident_bytes() - before) // MIB)

    np.ones(64 * MIB, np.uint8)
    print_rest()
    assert keep_freed_memory(65 * MIB)
    np.ones(64 * MIB, np.uint8)
    print_rest()
    return_freed_memory()
    print_rest()


def test_a_freed_block_is_kept_until_memory_is_returned() -> None:
    by_default, kept, returned = printed_by(print_resident)
    assert by_default < 5
    assert kept >= 60
    assert returned < 5


def test_blocks_that_glibc_keeps_by_itself_change_nothing() -> None:
    assert not keep_freed_memory(DEFAULT_BLOCK_BYTES)


def print_peaks() -> None:
    """Print the MiB that a scorer holds after short utterances, and at the peak of the longest one that fits."""
    limit_bytes = 768 * MIB
    settings = ScorerSettings("cpu", 2, "fp32", 8.0, limit_bytes, 0.8)
    scorer = PartScorer(lambda: Detector(DetectorConfig(SHALLOW)), settings)
    longest_s = Inference(SHALLOW).longest_seconds(limit_bytes) - 0.1
    audio = [np.ones(int(seconds * SAMPLE_RATE), np.float32) for seconds in (1.0, 7.3, 7.2, longest_s)]
    scorer.score(audio, 0, 1, "whole", ())  # libraries allocate in the first pass
    before = resident_bytes()
    scorer.score(audio, 1, 3, "whole", ())
    print((resident_bytes() - before) // MIB)
    forget_peak()
    scorer.score(audio, 3, 4, "whole", ())
    print((peak_bytes() - before) // MIB)


@needs_peaks
def test_what_is_kept_is_returned_before_an_utterance_that_needs_the_limit() -> None:
    kept, peak = printed_by(print_peaks)
    assert kept >= 80
    assert 680 <= peak <= 820
