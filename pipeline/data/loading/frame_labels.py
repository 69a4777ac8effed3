"""The label of each frame of a crop: from the regions of its utterance, or the label of the whole utterance.

Frame t stands for the 20 ms from t · 20 ms on, as in `pipeline.metrics.timeline`, and has the label of their middle.
Time of non-speech and time outside of all regions has no label, as `bonafide evaluate` leaves them out by default.
Where an utterance is not known to have one label throughout, its frames have none: a spoofed one without regions, if
other utterances of its corpus have some or if its artifact is `partial`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.audio.waveform import MIN_SAMPLES, SAMPLE_RATE
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import FRAME_SAMPLES, shard_slices
from pipeline.data.store.index import Index, uid_numbers
from pipeline.data.store.shard_tables import map_indexes
from pipeline.data.store.snapshot import Snapshot, load_regions, snapshot_shards
from pipeline.storage import Folder

# B: utterances, F: frames of 20 ms, P: utterances that are not of one label throughout, R: regions.

NO_LABEL = -1

MIN_LABELLED_SAMPLES = SAMPLE_RATE // 10
"""How much spoofed or bona fide speech decides the label of a crop: 0.1 s."""

SPOOF, BONAFIDE = (LABELS.index(label) for label in ("spoof", "bonafide"))


@dataclass(frozen=True, eq=False)
class PartialLabels:
    """Labelled parts of the utterances that are not of one label throughout; times are in samples.

    They take 17 bytes for each region and 16 for each utterance, once on each rank: loader workers receive the labels
    of one batch at a time.
    """

    uid: NDArray[np.uint64]
    """[P] in ascending order. The frames of all other utterances have the label of their utterance."""
    first_region: NDArray[np.int64]
    """[P + 1] the first region of each utterance, then the number of regions; an utterance may have none."""
    starts: NDArray[np.int64]
    """[R] ascending within an utterance."""
    ends: NDArray[np.int64]
    """[R]"""
    labels: NDArray[np.int8]
    """[R] position in LABELS."""

    def find(self, uid: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the position of each utterance in `uid`, or -1 for one of one label throughout."""
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
    *,
    only_regions: bool = False,
) -> CropLabels:
    """Label the crops of a batch and their frames.

    A crop of a spoofed utterance is bona fide if it has at least 0.1 s of bona fide speech and less than 0.1 s of
    spoofed speech (or less than all of it, if the utterance has less). An utterance that counts as bona fide, by the
    recipe too, is bona fide in all its regions.

    Args:
        partial: the utterances that are not of one label throughout.
        uid: [B] utterances.
        label: [B] their labels.
        start: [B] first sample of each crop.
        num_samples: [B] length of each crop.
        padded_samples: length to which the crops are padded.
        only_regions: whether only utterances with regions have labelled frames.
    """
    num_frames = count_frames(num_samples)
    labels = label.copy()
    frames = np.full((len(uid), int(count_frames(np.array([padded_samples]))[0])), NO_LABEL, np.int8)
    for row, position in enumerate(partial.find(uid).tolist()):
        if position < 0:
            if not only_regions:
                frames[row, : num_frames[row]] = label[row]
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
    """Load the regions of the corpora of a snapshot, and which of their utterances have frames without a label."""
    regions = load_regions(store, snapshot)
    corpora = [corpus.name for corpus in snapshot.corpora.values() if corpus.regions]

    def unknown_uids(index: pa.Table) -> NDArray[np.uint64]:
        """The spoofed utterances that are not known to be spoofed throughout; some of them have regions."""
        is_partial = pc.fill_null(pc.equal(index["artifact"], "partial"), False)
        is_unknown = pc.or_(is_partial, pc.is_in(index["corpus"], pa.array(corpora, pa.string())))
        is_spoof = pc.equal(index["label"], LABELS[SPOOF])
        return uid_numbers(index.filter(pc.and_(is_unknown, is_spoof))["uid"])

    columns = ["uid", "corpus", "label", "artifact"]
    unknown = map_indexes(unknown_uids, store, snapshot_shards(snapshot), columns)
    return make_partial_labels(regions, np.concatenate([np.empty(0, np.uint64), *unknown]))


def make_partial_labels(regions: pa.Table, unknown: NDArray[np.uint64]) -> PartialLabels:
    """Arrange regions as arrays.

    Args:
        regions: a table with the columns `regions.REGIONS`.
        unknown: utterances whose frames have no label outside of regions.
    """
    number = uid_numbers(regions["uid"])
    uid = np.unique(np.concatenate([number, unknown]))
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
    first_region = np.searchsorted(number[order], uid)
    return PartialLabels(uid, np.append(first_region, len(order)), starts[order], ends[order], labels[order])


def labelled_seconds(partial: PartialLabels, index: Index) -> dict[str, float]:
    """Add up the seconds of an index: labelled in `regions`, in `utterances` of one label, and `unlabelled`."""
    seconds = {"regions": 0.0, "utterances": 0.0, "unlabelled": 0.0}
    region_seconds = np.append((partial.ends - partial.starts) / SAMPLE_RATE, 0.0)
    # A sum over an empty slice at the end needs the 0 that was appended.
    sums = np.add.reduceat(region_seconds, partial.first_region)[:-1]
    sums[np.diff(partial.first_region) == 0] = 0.0
    for _, _, rows in shard_slices(index):
        position = partial.find(index.uid[rows])
        is_partial = position >= 0
        total = index.seconds[rows].astype(np.float64)
        labelled = sums[position[is_partial]].sum()
        seconds["regions"] += labelled
        seconds["utterances"] += total[~is_partial].sum()
        seconds["unlabelled"] += max(0.0, total[is_partial].sum() - labelled)
    return seconds
