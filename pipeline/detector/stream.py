"""An endless stream of batches, epoch after epoch, from any position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from pipeline.detector.batch import Batch
from pipeline.errors import InputError

Batches = Callable[[int, int], Iterable[Batch]]
"""(epoch, first batch) → this rank's share of the remaining batches of the epoch, equally many on each rank.

Batches of an epoch are counted over all ranks: with W ranks, rank r takes first + r, first + r + W, …"""


class Stream:
    """Yields one batch after another and knows its position."""

    def __init__(self, batches: Batches, epoch: int, batch: int, world: int) -> None:
        self.batches = batches
        self.epoch = epoch
        self.batch = batch
        self._world = world
        self._iterator: Iterator[Batch] | None = None

    def take(self) -> Batch:
        """Return the next batch and advance.

        Raises:
            InputError: a whole epoch has no batch for this rank.
        """
        while True:
            # A loader draws seeds from torch's generator when it starts. A resumed run starts it at another step.
            with torch.random.fork_rng(devices=[]):
                if self._iterator is None:
                    self._iterator = iter(self.batches(self.epoch, self.batch))
                batch = next(self._iterator, None)
            if batch is not None:
                self.batch += self._world
                return batch
            if self.batch == 0:
                raise InputError(
                    "the training data are too few for one batch per worker; "
                    "add data, use fewer workers or smaller batches"
                )
            self.epoch, self.batch, self._iterator = self.epoch + 1, 0, None
