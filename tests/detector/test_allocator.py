"""A scoring process keeps freed memory for its next batch, and returns it to make room for a long utterance."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.scoring.parts import PartScorer, ScorerSettings
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.allocator import DEFAULT_BLOCK_BYTES, keep_freed_memory, return_freed_memory
from pipeline.detector.network import Detector, DetectorConfig
from pipeline.detector.variants import VARIANTS
from tests.detector.test_memory import status_bytes

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory"
)

MIB = 2**20

SHALLOW = replace(VARIANTS["w2v_small"], num_layers=1, ffn_width=768)
"""Convolutions as published, with one layer."""


def in_fresh_process(function: str) -> list[int]:
    """The numbers that a function of this file prints in a process of its own."""
    command = [sys.executable, "-c", f"from tests.detector.test_allocator import {function}; {function}()"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [int(line) for line in printed.split()]


def print_resident() -> None:
    """Print the MiB that stay resident of a freed block: as glibc does, then kept, then returned."""
    before = status_bytes("VmRSS")

    def print_rest() -> None:
        print((status_bytes("VmRSS") - before) // MIB)

    np.ones(64 * MIB, np.uint8)
    print_rest()
    assert keep_freed_memory(65 * MIB)
    np.ones(64 * MIB, np.uint8)
    print_rest()
    return_freed_memory()
    print_rest()


def test_a_freed_block_is_kept_until_memory_is_returned() -> None:
    by_default, kept, returned = in_fresh_process("print_resident")
    assert by_default < 5
    assert kept >= 60
    assert returned < 5


def test_blocks_that_glibc_keeps_by_itself_change_nothing() -> None:
    assert not keep_freed_memory(DEFAULT_BLOCK_BYTES)


def print_peaks() -> None:
    """Print the MiB of a scorer limited to 768 MiB: kept after short utterances, at the peak of the longest."""
    settings = ScorerSettings("cpu", 2, "fp32", 8.0, "whole", 768 * MIB, 0.8)
    scorer = PartScorer(lambda: Detector(DetectorConfig(SHALLOW)), settings)
    longest_s = scorer.scorer._inference.longest_seconds(768 * MIB) - 0.1
    audio = [np.ones(int(seconds * SAMPLE_RATE), np.float32) for seconds in (1.0, 7.3, 7.2, longest_s)]
    scorer.score(audio, 0, 1)  # libraries allocate in the first pass
    before = status_bytes("VmRSS")
    scorer.score(audio, 1, 3)
    print((status_bytes("VmRSS") - before) // MIB)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    scorer.score(audio, 3, 4)
    print((status_bytes("VmHWM") - before) // MIB)


def test_what_is_kept_is_returned_before_an_utterance_that_needs_the_limit() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not measure the peak memory of a process anew")
    kept, peak = in_fresh_process("print_peaks")
    assert kept >= 80
    assert 680 <= peak <= 820
