"""The search for the largest batch."""

from __future__ import annotations

import pytest
import torch

from pipeline.detector.batch_size import find_batch_seconds, largest
from pipeline.detector.config import TrainingConfig
from pipeline.detector.memory import SAFETY
from pipeline.errors import InputError
from tests.detector.toys import assert_same_weights, toy_detector


@pytest.mark.parametrize("at_most", [0, 1, 2, 7, 153])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 100, 152, 153, 154, 1000])
def test_the_search_finds_the_largest_that_fits(limit: int, at_most: int) -> None:
    attempts: list[int] = []

    def fits(number: int) -> bool:
        attempts.append(number)
        return number <= limit

    assert largest(fits, at_most) == min(limit, at_most)
    assert len(attempts) == len(set(attempts)) <= 16
    assert max(attempts, default=0) <= min(at_most, max(1, 2 * limit))


def test_the_search_is_refused_on_a_cpu() -> None:
    with pytest.raises(InputError, match="by hand"):
        find_batch_seconds(toy_detector(), TrainingConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to fill")
def test_the_search_on_a_gpu_does_not_change_the_detector() -> None:
    detector = toy_detector().cuda()
    before = {name: weight.clone() for name, weight in detector.state_dict().items()}
    batch_s = find_batch_seconds(detector, TrainingConfig(), utterance_s=2.0, at_most_s=20.0)
    assert batch_s == pytest.approx(SAFETY * 20)
    assert_same_weights(before, detector.state_dict())
    assert all(weight.grad is None for weight in detector.parameters())
