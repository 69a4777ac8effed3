"""The exponential moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from pipeline.detector.average import WeightAverage
from pipeline.detector.config import EmaConfig
from pipeline.detector.trainer import Trainer
from pipeline.errors import InputError
from tests.detector.toys import run, toy_batches, toy_config, toy_detector


def test_an_average_is_that_of_its_definition() -> None:
    weight = torch.zeros(2)
    average = WeightAverage({"a": weight}, 0.25)
    expected = torch.zeros(2)
    for step, decay in ((1, 0.1), (2, 2 / 11), (3, 0.25), (4, 0.25)):
        weight += torch.tensor([1.0, -step])
        average.update(step)
        expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(average.tensors["a"], expected)


def test_after_a_swap_back_both_have_their_bits_even_if_the_measurement_fails() -> None:
    weight, start = torch.randn(5), torch.randn(5)
    average = WeightAverage({"a": weight}, 0.9)
    average.tensors["a"].copy_(start)
    before, place = weight.clone(), weight.data_ptr()
    with pytest.raises(KeyError), average.swapped_in():
        assert torch.equal(weight, start)
        assert torch.equal(average.tensors["a"], before)
        raise KeyError
    assert torch.equal(weight, before)
    assert torch.equal(average.tensors["a"], start)
    assert weight.data_ptr() == place


def test_only_weights_that_train_are_averaged() -> None:
    detector = toy_detector()
    for name, weight in detector.named_parameters():
        weight.requires_grad_("encoder" not in name)
    trainer = Trainer(detector, toy_batches, toy_config(2, ema=EmaConfig(0.9)))
    assert trainer.average is not None
    assert trainer.average.tensors.keys() == {
        name for name, weight in detector.named_parameters() if weight.requires_grad
    }
    assert any("encoder" in name for name, _ in detector.named_parameters())


def test_a_checkpoint_without_the_average_is_refused() -> None:
    _, log, _ = run(toy_config(5))
    with pytest.raises(InputError, match="of a different average of the weights"):
        run(toy_config(5, ema=EmaConfig(0.9)), state=log.states[5])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_average_that_would_never_move_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match="--decay"):
        EmaConfig(decay)
