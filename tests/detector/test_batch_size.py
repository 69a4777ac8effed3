"""The search for the largest batch, and what it says where there is nothing to fill."""

from __future__ import annotations

import pytest
import torch

from pipeline.detector.batch_size import SAFETY, find_batch_seconds, largest
from pipeline.detector.config import TrainingConfig
from pipeline.errors import InputError
from tests.detector.toys import assert_same_weights, toy_detector


@pytest.mark.parametrize("at_most", [0, 1, 2, 7, 153])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 100, 152, 153, 154, 1000])
def test_the_search_finds_the_largest_that_fits(limit: int, at_most: int) -> None:
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert largest(fits, at_most) == min(limit, at_most)
    assert len(asked) == len(set(asked)) <= 16
    assert max(asked, default=0) <= min(at_most, max(1, 2 * limit))


def test_a_cpu_has_no_largest_batch() -> None:
    with pytest.raises(InputError, match="by hand"):
        find_batch_seconds(toy_detector(), TrainingConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to fill")
def test_what_is_found_on_a_gpu_leaves_the_detector_as_it_was() -> None:
    detector = toy_detector().cuda()
    before = {name: weight.clone() for name, weight in detector.state_dict().items()}
    found = find_batch_seconds(detector, TrainingConfig(), utterance_s=2.0, at_most_s=20.0)
    assert found == pytest.approx(SAFETY * 20)
    assert_same_weights(before, detector.state_dict())
    assert all(weight.grad is None for weight in detector.parameters())
