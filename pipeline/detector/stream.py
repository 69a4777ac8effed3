"""Batches, epoch after epoch, from a position on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from pipeline.detector.batch import Batch
from pipeline.errors import InputError

Batches = Callable[[int, int], Iterable[Batch]]
"""(epoch, first batch) → this rank's share of the epoch's batches from that one on, equally many on each rank.

Batches of an epoch are counted over all ranks: with W ranks, rank r takes first + r, first + r + W, …"""


class Stream:
    """Takes one batch after the other, and knows its place."""

    def __init__(self, batches: Batches, epoch: int, batch: int, world: int) -> None:
        self.batches = batches
        self.epoch = epoch
        self.batch = batch
        self._world = world
        self._iterator: Iterator[Batch] | None = None

    def take(self) -> Batch:
        """Return the next batch and move on; InputError when a whole epoch has none."""
        while True:
            # A loader draws seeds from torch's generator when it starts, at other steps in a resumed run.
            with torch.random.fork_rng(devices=[]):
                if self._iterator is None:
                    self._iterator = iter(self.batches(self.epoch, self.batch))
                batch = next(self._iterator, None)
            if batch is not None:
                self.batch += self._world
                return batch
            if self.batch == 0:
                raise InputError(
                    "the training data make no batch for each worker; add data, use fewer workers or smaller batches"
                )
            self.epoch, self.batch, self._iterator = self.epoch + 1, 0, None
