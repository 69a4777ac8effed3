"""The memory of a validation is known before it is tried, and its utterances have names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.training.data import WorkerData, check_validation_memory, free_for_validation, name_utterances
from jobs.training.driver import Failure, RetryPolicy
from jobs.training.monitor import Position
from jobs.training.resolve import ResolvedTraining, resolve
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.index import load_index
from pipeline.data.store.snapshot import load_snapshot
from pipeline.detector.config import LoraConfig, LossConfig, TrainingConfig
from pipeline.detector.memory import Inference
from pipeline.detector.variants import VARIANTS
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.jobs.training.trainings import config

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


EXPECTED_ACCURACY = TrainingConfig(loss=LossConfig("expected_accuracy"))


@pytest.fixture
def training(place: Path) -> ResolvedTraining:
    snapshot = load_snapshot(Folder(str(place / "store")), "latest")
    return resolve(config(place, "unused"), None, Recipe(), snapshot)


def test_a_held_out_utterance_that_does_not_fit_is_named_with_its_length(training: ResolvedTraining):
    validation = load_index(training.store, training.snapshot, training.recipe, "validation")
    longest_s = float(validation.seconds.max())
    needed = Inference(VARIANTS["tiny"]).utterance_bytes(round(longest_s * 16_000))
    check_validation_memory(training, validation, needed)
    message = (
        rf"validating with asvspoof2019_la/ASV19LA-LA_D_10\d\d \({longest_s:.1f} s\) needs 0\.00 GiB .*"
        r"validate with the first seconds of each utterance \(--validation-crop-s 30\)"
    )
    with pytest.raises(InputError, match=message):
        check_validation_memory(training, validation, needed - 1)
    cropped = replace(training, config=replace(training.config, validation_crop_s=longest_s / 2))
    check_validation_memory(cropped, validation, 0.6 * needed)


def test_the_weights_and_what_trains_them_count(training: ResolvedTraining, monkeypatch: pytest.MonkeyPatch):
    alone = free_for_validation(training, 1)
    assert alone > 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_for_validation(training, 4) < 0.5 * alone
    large = replace(training, config=replace(training.config, variant="xlsr_2b"))
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    used = alone - free_for_validation(large, 1)
    assert used > 20 * 2**30
    with_reference = replace(large.config.training, loss=EXPECTED_ACCURACY.loss)
    compared = replace(large, config=replace(large.config, training=with_reference))
    assert free_for_validation(large, 1) - free_for_validation(compared, 1) > 7 * 2**30
    training_config = replace(large.config.training, lora=LoraConfig(rank=16))
    adapted = replace(large, config=replace(large.config, training=training_config))
    # Frozen weights have no gradient and no moments.
    assert alone - free_for_validation(adapted, 1) < 0.5 * used


def test_only_scores_that_are_log_odds_have_the_odds_of_the_training(training: ResolvedTraining):
    assert WorkerData(training, rank=0, world=1).log_odds() == pytest.approx(0, abs=0.05)
    other = replace(training, config=replace(training.config, training=EXPECTED_ACCURACY))
    assert WorkerData(other, rank=0, world=1).log_odds() is None


def test_a_validation_with_a_crop_scores_the_first_seconds(training: ResolvedTraining):
    cropped = replace(training, config=replace(training.config, validation_crop_s=0.25))
    whole, first = (
        {
            uid: waveform[:num_samples]
            for batch in WorkerData(each, rank=0, world=1).validation_batches()
            for uid, waveform, num_samples in zip(batch.uid, batch.waveform, batch.num_samples, strict=True)
        }
        for each in (training, cropped)
    )
    assert whole.keys() == first.keys()
    assert {len(waveform) for waveform in first.values()} == {4_000}
    assert min(len(waveform) for waveform in whole.values()) > 4_000


def test_utterances_that_fail_are_named_by_corpus_id_and_length(training: ResolvedTraining):
    validation = load_index(training.store, training.snapshot, training.recipe, "validation")
    uids = [f"{uid:016x}" for uid in validation.uid.tolist()]
    names = name_utterances(training, uids)
    longest_s = float(validation.seconds.max())
    assert (
        names.startswith("asvspoof2019_la/ASV19LA-LA_D_") and f"({longest_s:.1f} s)" in names.split(", ")[0]
    )
    assert names.endswith(f"and {len(uids) - 5} more")
    assert name_utterances(training, []) == ""
    policy = RetryPolicy(9, lambda uids: name_utterances(training, uids))
    failure = Failure("rank 0 died", Position("the validation after step 40", (uids[0],)), RuntimeError())
    for _ in range(2):
        policy.delay_s(failure, has_progressed=False)
    with pytest.raises(InputError, match=r"its utterances: asvspoof2019_la/ASV19LA-LA_D_10\d\d \(0\.\d s\)$"):
        policy.delay_s(failure, has_progressed=False)
