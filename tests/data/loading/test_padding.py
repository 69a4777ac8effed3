"""Padded batches are bounded, complete and in a fixed order."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline.data.loading.padding import LENGTH_STEP, padded_length, plan_padded_batches


@pytest.mark.parametrize("seed", range(20))
def test_batches_are_complete_bounded_full_and_sorted_with_ties_in_input_order(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, int(rng.choice([3, 5_000, 500_000])), int(rng.integers(1, 400)))
    max_samples = int(rng.integers(1, 2_000_000))
    batches = plan_padded_batches(lengths, max_samples)
    # Python's sort keeps ties in input order, so this fixes the whole order.
    expected = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    assert [position for batch in batches for position in batch] == expected
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        longest = padded_length(max(1, int(lengths[batch].max())))
        assert len(batch) * longest <= max_samples or len(batch) == 1
        assert following is None or (len(batch) + 1) * longest > max_samples


def test_padding_stays_below_ten_percent_when_many_lengths_are_mixed():
    lengths = np.random.default_rng(0).integers(1, 500_000, 500)
    batches = plan_padded_batches(lengths, 1_600_000)
    padded = sum(len(batch) * padded_length(int(lengths[batch].max())) for batch in batches)
    assert padded <= 1.1 * lengths.sum()


def test_a_padded_length_is_the_next_of_few():
    lengths = range(0, 5 * LENGTH_STEP + 1, 7)
    padded = [padded_length(length) for length in lengths]
    assert all(0 <= after - before < LENGTH_STEP for before, after in zip(lengths, padded, strict=True))
    assert set(padded) == {number * LENGTH_STEP for number in range(6)}


def test_an_utterance_longer_than_a_batch_is_alone():
    assert [batch.tolist() for batch in plan_padded_batches([5, 100_000, 5], 16_000)] == [[1], [0, 2]]


def test_no_utterances_make_no_batches():
    assert plan_padded_batches([], 16_000) == []


def test_the_planner_loads_nothing_heavier_than_numpy():
    program = (
        "import sys; import pipeline.data.loading.padding; "
        "print(*{'torch', 'scipy', 'pyarrow', 'soundfile', 'fsspec', 'av'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""
