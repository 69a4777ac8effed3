"""The label of a frame is that of its middle, wherever the crop begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data.corpora.domains import Domain
from pipeline.data.loading.augment.composition import augmenter, read_steps
from pipeline.data.loading.batches import TrainingBatches, evaluation_batches
from pipeline.data.loading.frame_labels import (
    NO_LABEL,
    PartialLabels,
    count_frames,
    count_labelled,
    label_crops,
    make_partial_labels,
)
from pipeline.data.store.index import Index
from pipeline.data.store.regions import REGIONS
from pipeline.detector.variants import HOP_SAMPLES, frame_counts
from pipeline.metrics.timeline import FrameScores, Regions, make_timeline
from pipeline.storage import Folder
from tests.data.loading.test_batches import CONFIG, store  # noqa: F401 - a fixture

SPOOF, BONAFIDE = 0, 1
SECOND = 16_000

Row = tuple[int, float, float, str]
"""uid, start and end in seconds, label."""


def partial_labels(rows: Sequence[Row]) -> PartialLabels:
    table = pa.Table.from_pylist(
        [
            {"uid": f"{uid:016x}", "start_s": start, "end_s": end, "label": label}
            for uid, start, end, label in rows
        ],
        REGIONS,
    )
    return make_partial_labels(table)


def label_one(
    partial: PartialLabels, start: int, num_samples: int, label: int = SPOOF, uid: int = 7
) -> tuple[int, NDArray[np.int8]]:
    crops = label_crops(
        partial,
        np.array([uid], np.uint64),
        np.array([label], np.int8),
        np.array([start]),
        np.array([num_samples]),
        num_samples,
    )
    return int(crops.label[0]), crops.frame_label[0]


SPLICED = partial_labels(
    [
        (7, 0.0, 0.4771, "bonafide"),
        (7, 0.4771, 1.036, "spoof"),
        (7, 1.036, 1.2, "non_speech"),
        (7, 1.3, 2.0, "bonafide"),
        (3, 0.0, 1.0, "spoof"),
    ]
)
"""Time from 1.2 to 1.3 s has no region."""


def sample_labels() -> NDArray[np.int8]:
    """The label of each sample of utterance 7 in SPLICED."""
    labels = np.full(2 * SECOND, NO_LABEL, np.int8)
    for start, end, label in ((0, 0.4771, BONAFIDE), (0.4771, 1.036, SPOOF), (1.3, 2.0, BONAFIDE)):
        labels[round(start * SECOND) : round(end * SECOND)] = label
    return labels


def test_the_labels_of_a_crop_are_those_of_the_samples_it_holds() -> None:
    rng = np.random.default_rng(0)
    samples = sample_labels()
    for start, num_samples in [(0, 2 * SECOND), *zip(*rng.integers(800, SECOND, (2, 200)), strict=True)]:
        _, frames = label_one(SPLICED, int(start), int(num_samples))
        expected = samples[start : start + num_samples][HOP_SAMPLES // 2 :: HOP_SAMPLES]
        np.testing.assert_array_equal(frames, expected[: len(frames)])


def test_a_crop_that_begins_with_a_frame_has_the_frames_of_the_whole_utterance() -> None:
    _, whole = label_one(SPLICED, 0, 2 * SECOND)
    for first in (1, 20, 61):
        _, cut = label_one(SPLICED, first * HOP_SAMPLES, SECOND // 2)
        np.testing.assert_array_equal(cut, whole[first : first + len(cut)])


@pytest.mark.parametrize("num_samples", [20, 400, 719, 720, 16_000, 16_079, 16_080, 200_001])
def test_frames_are_counted_as_the_front_end_makes_them(num_samples: int) -> None:
    assert count_frames(np.array([num_samples])).tolist() == [frame_counts(num_samples)[-1]]


def test_a_frame_has_the_label_that_most_of_its_time_has_in_an_evaluation() -> None:
    _, frames = label_one(SPLICED, 0, 2 * SECOND)
    regions = Regions(
        np.zeros(2, np.int64),
        np.array([0.0, 0.4771]),
        np.array([0.4771, 1.036]),
        np.array(["bonafide", "spoof"]),
    )
    scores = FrameScores(["x"], np.array([2.0]), np.array([len(frames)]), np.zeros(len(frames)))
    timeline = make_timeline(scores, regions, "excluded")
    is_spoof = timeline.spoof_ns > timeline.frame_ns / 2
    np.testing.assert_array_equal(frames[: len(is_spoof)] == SPOOF, is_spoof)


def test_padding_has_no_label() -> None:
    crops = label_crops(
        SPLICED,
        np.array([7, 3, 7], np.uint64),
        np.array([SPOOF, BONAFIDE, SPOOF], np.int8),
        np.zeros(3, np.int64),
        np.array([SECOND, 5_000, 20]),
        2 * SECOND,
    )
    assert (crops.frame_label >= 0).sum(axis=1).tolist() == [49, 15, 0]
    assert crops.frame_label.shape == (3, 99)


def test_frames_of_an_utterance_without_regions_have_no_label() -> None:
    for label in (SPOOF, BONAFIDE):
        crop_label, frames = label_one(SPLICED, 0, SECOND, label, uid=8)
        assert crop_label == label
        assert set(frames.tolist()) == {NO_LABEL}


def test_the_frames_of_what_a_recipe_counts_as_bona_fide_are_bona_fide() -> None:
    label, frames = label_one(SPLICED, 0, 2 * SECOND, BONAFIDE)
    assert label == BONAFIDE
    np.testing.assert_array_equal(frames == BONAFIDE, label_one(SPLICED, 0, 2 * SECOND)[1] != NO_LABEL)


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, 2.0, SPOOF),
        (0.0, 0.477, BONAFIDE),
        (0.0, 0.56, BONAFIDE),  # 0.08 s are spoofed
        (0.0, 0.58, SPOOF),
        (1.31, 2.0, BONAFIDE),
        (1.04, 1.29, SPOOF),  # nothing is labelled, so the label of the utterance stays
        (1.04, 1.35, SPOOF),  # 0.05 s of bona fide speech tell too little
    ],
)
def test_a_crop_is_spoofed_if_it_has_spoofed_speech(start_s: float, end_s: float, expected: int) -> None:
    label, _ = label_one(SPLICED, round(start_s * SECOND), round((end_s - start_s) * SECOND))
    assert label == expected


def test_a_whole_utterance_keeps_its_label_however_little_of_it_is_spoofed() -> None:
    partial = partial_labels([(7, 0, 0.95, "bonafide"), (7, 0.95, 1.0, "spoof")])
    assert label_one(partial, 0, SECOND)[0] == SPOOF
    assert label_one(partial, 0, SECOND - 400)[0] == BONAFIDE


def test_frame_labels_travel_with_the_batch(store: tuple[Folder, Index]) -> None:  # noqa: F811
    folder, index = store
    rows: list[Row] = []
    for uid, seconds in zip(index.uid.tolist(), index.seconds.tolist(), strict=True):
        if uid % 4 == 0:  # spoofed at its end
            rows += [(uid, 0.0, 0.8 * seconds, "bonafide"), (uid, 0.8 * seconds, seconds, "spoof")]
    partial = partial_labels(rows)
    quieter = augmenter(read_steps([{"name": "clipping", "labels": ["spoof"]}]))
    relabelled = 0
    plain = TrainingBatches(folder, index, CONFIG)
    for workers in (0, 2):
        labelled = TrainingBatches(
            folder, index, CONFIG, augment=quieter, num_workers=workers, partial=partial
        )
        for batch, unlabelled, request in zip(labelled(0), plain(0), labelled.requests(0), strict=True):
            assert unlabelled.frame_label is None
            assert batch.frame_label is not None and batch.frame_label.dtype == torch.int8
            assert batch.uid == unlabelled.uid
            for row, uid in enumerate(batch.uid):
                number, num_samples = int(uid, 16), int(batch.num_samples[row])
                assert num_samples == unlabelled.num_samples[row]
                crop = label_one(partial, request.crop_start[row], num_samples, number % 2, number)
                frames = batch.frame_label[row].numpy()
                np.testing.assert_array_equal(frames[: len(crop[1])], crop[1])
                assert (frames[len(crop[1]) :] == NO_LABEL).all()
                assert batch.label[row] == crop[0]
                # Augmentations follow the label of the crop.
                is_same = torch.equal(batch.waveform[row], unlabelled.waveform[row])
                assert is_same == (crop[0] == BONAFIDE)
                relabelled += int(batch.label[row] != unlabelled.label[row])
    assert relabelled > 2
    for batch in evaluation_batches(folder, index, partial=partial, crop_s=0.3):
        assert batch.label.tolist() == [int(uid, 16) % 2 for uid in batch.uid]
        assert batch.frame_label is not None
        has_labels = (batch.frame_label >= 0).any(dim=1)
        assert has_labels.tolist() == [int(uid, 16) % 4 == 0 for uid in batch.uid]


def test_labelled_time_is_counted() -> None:
    index = Index(
        shards=("a.tar",),
        corpora=("with",),
        domains=(Domain("with", "spoof", "x"),),
        shard=np.zeros(8, np.int32),
        offset=np.arange(8),
        num_bytes=np.ones(8, np.int32),
        seconds=np.ones(8, np.float32),
        label=np.zeros(8, np.int8),
        domain=np.zeros(8, np.int32),
        uid=np.arange(8, dtype=np.uint64),
    )
    number, seconds = count_labelled(SPLICED, index)
    assert (number, round(seconds, 3)) == (2, 2.736)
    silent = partial_labels([(1, 0.0, 0.5, "spoof"), (2, 0.0, 1.0, "non_speech")])
    assert count_labelled(silent, index) == (2, 0.5)
    assert count_labelled(partial_labels([]), index) == (0, 0.0)
