"""The label of each frame of a crop, from the regions of its utterance.

Frame t stands for the 20 ms from t · 20 ms on, as in `pipeline.metrics.timeline`, and has the label of their middle.
Time of non-speech and time outside of all regions has no label, as `bonafide evaluate` leaves them out by default.
The frames of an utterance without regions have no label, even if it has one label throughout: trained on such frames, a
detector finds fewer boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.audio.waveform import MIN_SAMPLES, SAMPLE_RATE
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import FRAME_SAMPLES, shard_slices
from pipeline.data.store.index import Index, uid_numbers
from pipeline.data.store.snapshot import Snapshot, load_regions
from pipeline.storage import Folder

# B: utterances, F: frames of 20 ms, P: utterances that have regions, R: regions.

NO_LABEL = -1

MIN_LABELLED_SAMPLES = SAMPLE_RATE // 10
"""How much spoofed or bona fide speech decides the label of a crop: 0.1 s."""

SPOOF, BONAFIDE = (LABELS.index(label) for label in ("spoof", "bonafide"))


@dataclass(frozen=True, eq=False)
class PartialLabels:
    """Labelled parts of the utterances that have regions; times are in samples.

    They take 17 bytes for each region and 16 for each utterance, once on each rank: loader workers receive the labels
    of one batch at a time.
    """

    uid: NDArray[np.uint64]
    """[P] in ascending order."""
    first_region: NDArray[np.int64]
    """[P + 1] the first region of each utterance, then the number of regions; one of non-speech has none."""
    starts: NDArray[np.int64]
    """[R] ascending within an utterance."""
    ends: NDArray[np.int64]
    """[R]"""
    labels: NDArray[np.int8]
    """[R] position in LABELS."""

    def find(self, uid: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the position of each utterance in `uid`, or -1 for one without regions."""
        if not len(self.uid):
            return np.full(len(uid), -1)
        position = np.minimum(np.searchsorted(self.uid, uid), len(self.uid) - 1)
        return np.where(self.uid[position] == uid, position, -1)

    def regions(self, position: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
        """Return the starts, ends and labels of the regions of the utterance at a position."""
        rows = slice(self.first_region[position], self.first_region[position + 1])
        return self.starts[rows], self.ends[rows], self.labels[rows]


@dataclass(frozen=True, slots=True, eq=False)
class CropLabels:
    """The labels of the crops of a batch."""

    label: NDArray[np.int8]
    """[B] position in LABELS."""
    frame_label: NDArray[np.int8]
    """[B, F] position in LABELS, or NO_LABEL."""


def label_crops(
    partial: PartialLabels,
    uid: NDArray[np.uint64],
    label: NDArray[np.int8],
    start: NDArray[np.int64],
    num_samples: NDArray[np.int64],
    padded_samples: int,
) -> CropLabels:
    """Label the crops of a batch and their frames.

    A crop of a spoofed utterance is bona fide if it has at least 0.1 s of bona fide speech and less than 0.1 s of
    spoofed speech (or less than all of it, if the utterance has less). An utterance that counts as bona fide, by the
    recipe too, is bona fide in all its regions.

    Args:
        partial: the regions of all utterances that have some.
        uid: [B] utterances.
        label: [B] their labels.
        start: [B] first sample of each crop.
        num_samples: [B] length of each crop.
        padded_samples: length to which the crops are padded.
    """
    num_frames = count_frames(num_samples)
    labels = label.copy()
    frames = np.full((len(uid), int(count_frames(np.array([padded_samples]))[0])), NO_LABEL, np.int8)
    for row, position in enumerate(partial.find(uid).tolist()):
        if position < 0:
            continue
        starts, ends, region_labels = partial.regions(position)
        if label[row] == BONAFIDE:
            region_labels = np.full_like(region_labels, BONAFIDE)
        crop_starts, crop_ends = (
            np.clip(edges - start[row], 0, num_samples[row]) for edges in (starts, ends)
        )
        # The first frame whose middle is not before the edge.
        first, end = (
            np.minimum(-((FRAME_SAMPLES // 2 - edges) // FRAME_SAMPLES), num_frames[row])
            for edges in (crop_starts, crop_ends)
        )
        for begin, stop, region_label in zip(first, end, region_labels, strict=True):
            frames[row, begin:stop] = region_label
        is_spoof = region_labels == SPOOF
        durations = crop_ends - crop_starts
        spoofed = durations[is_spoof].sum()
        needed = min(MIN_LABELLED_SAMPLES, (ends - starts)[is_spoof].sum())
        if spoofed < needed and durations[~is_spoof].sum() >= MIN_LABELLED_SAMPLES:
            labels[row] = BONAFIDE
    return CropLabels(labels, frames)


def count_frames(num_samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the frames of the front end; a shorter utterance is padded to one frame."""
    return (np.maximum(num_samples, MIN_SAMPLES) - MIN_SAMPLES) // FRAME_SAMPLES + 1


def load_partial_labels(store: Folder, snapshot: Snapshot) -> PartialLabels:
    """Load the regions of the corpora of a snapshot."""
    return make_partial_labels(load_regions(store, snapshot))


def make_partial_labels(regions: pa.Table) -> PartialLabels:
    """Arrange a table with the columns `regions.REGIONS` as arrays."""
    number = uid_numbers(regions["uid"])
    uid = np.unique(number)
    # Regions of non-speech have no label, as if they were not there; their utterances stay in `uid`.
    names = regions["label"].to_numpy(zero_copy_only=False)
    labels = np.full(len(names), NO_LABEL, np.int8)
    for position, name in enumerate(LABELS):
        labels[names == name] = position
    starts, ends = (
        np.rint(regions[name].to_numpy() * SAMPLE_RATE).astype(np.int64) for name in ("start_s", "end_s")
    )
    order = np.lexsort((starts, number))
    order = order[labels[order] != NO_LABEL]
    first_region = np.append(np.searchsorted(number[order], uid), len(order))
    return PartialLabels(uid, first_region, starts[order], ends[order], labels[order])


def count_labelled(partial: PartialLabels, index: Index) -> tuple[int, float]:
    """Count the utterances of an index that have regions, and the seconds of these that have a label."""
    # A sum over an empty slice at the end needs the 0.
    durations = np.append((partial.ends - partial.starts) / SAMPLE_RATE, 0.0)
    sums = np.add.reduceat(durations, partial.first_region)[:-1]
    sums[np.diff(partial.first_region) == 0] = 0.0
    number, seconds = 0, 0.0
    for _, _, rows in shard_slices(index):
        position = partial.find(index.uid[rows])
        position = position[position >= 0]
        number += len(position)
        seconds += float(sums[position].sum())
    return number, seconds
