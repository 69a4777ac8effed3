"""An exponential moving average of the weights, kept beside them during training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class WeightAverage:
    """The average of named weights, on their device and sharded like them; it starts with their present values."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}
        """The average by name of the weight, as full or sharded tensors."""
        self._decay = decay
        # Updates are in place, so a rank's part of each tensor stays where it is.
        self._averages = [_local(tensor) for tensor in self.tensors.values()]
        self._weights = [_local(weight.detach()) for weight in weights.values()]

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Move the average towards the weights, after optimiser step number `num_updates` = 1, 2, …

        Early steps count more than `decay` says, because else the start would dominate the average for long.
        """
        decay = min(self._decay, num_updates / (9 + num_updates))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """A context in which the weights have the values of the average; afterwards both are as before, to the bit.

        Values are exchanged one tensor at a time, because a third copy of all weights may not fit.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
