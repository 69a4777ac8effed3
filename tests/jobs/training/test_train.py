"""The train job on two CPU workers, uninterrupted, and what it refuses."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from mlflow.tracking import MlflowClient
from ray.exceptions import ActorUnavailableError
from ray.util.placement_group import placement_group, placement_group_table

from jobs import train
from jobs.training import folder, record
from jobs.training.checkpoints import saved_checkpoints
from jobs.training.checks import (
    check_data,
    choose_recipe,
)
from jobs.training.config import TrainConfig
from jobs.training.data import WorkerData
from jobs.training.ray_trainer import LeanTrainer
from jobs.training.resolve import resolve
from pipeline import lease, tables
from pipeline.data.corpora.domains import DomainRule
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.loading.augment.composition import read_steps
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.store.layout import regions_name
from pipeline.data.store.regions import REGIONS, RegionSummary
from pipeline.data.store.snapshot import load_snapshot, load_utterances, only_named
from pipeline.detector.checkpoint import load_detector
from pipeline.detector.config import LossConfig, TrainingConfig
from pipeline.detector.variants import HeadConfig
from pipeline.errors import InputError
from pipeline.fields import Names
from pipeline.metrics import Group
from pipeline.storage import Folder
from tests.jobs.training.trainings import (
    NUM_STEPS,
    checkpoint_folder,
    config,
    losses,
    metrics,
    result_of,
    tracking_uri,
)

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
uses_ray = pytest.mark.ray


@uses_ray
def test_a_training_publishes_the_best_detector_beside_the_untrained_one(place: Path, whole: str) -> None:
    result = result_of(place, whole)
    assert result.num_steps == NUM_STEPS
    assert result.best_step in (20, 40, 60)
    assert result.weights != result.initial_weights
    points = {int(point["step"]): point for point in metrics(place, whole) if "validation/eer" in point}
    raw, ema = (points[result.best_step][f"validation/{weights}eer"] for weights in ("", "ema/"))
    assert result.best_weights == ("ema" if ema < raw else "raw")
    assert result.error_rates["pooled"] == min(raw, ema)
    header = load_detector(place / whole / folder.DETECTOR).metadata
    assert header["weights"] == result.best_weights
    assert float(header["eer"]) == result.error_rates["pooled"]
    first, last = losses(place, whole)[1], losses(place, whole)[NUM_STEPS]
    assert last < 0.5 * first
    names = {path.name for path in (place / whole).iterdir()}
    assert {folder.DETECTOR, folder.INITIAL, folder.CONFIG, folder.RECORD, folder.RESULT} <= names
    assert [saved.step for saved in saved_checkpoints(checkpoint_folder(place, whole))] == [50, 60]
    assert [path.name[:13] for path in sorted((place / whole / "checkpoints").glob("step_*"))] == [
        "step_00000050",
        "step_00000060",
    ]


@uses_ray
def test_a_complete_training_holds_only_files_that_its_layout_names(place: Path, whole: str) -> None:
    documented = (folder.__doc__ or "").split()
    for path in (place / whole).iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        assert any(word == name or word.startswith(f"{path.name}/") for word in documented), name


@uses_ray
def test_the_training_is_a_run_at_the_top_that_names_its_ingest_in_mlflow(place: Path, whole: str) -> None:
    client = MlflowClient(tracking_uri(place))
    result = result_of(place, whole)
    run = client.get_run(str(result.run_id))
    ingest = client.get_run(run.data.tags["bonafide.ingest"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "whole (tiny)"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["bonafide.snapshot"] == result.snapshot_digest
    assert ingest.data.tags["bonafide.job"] == "ingest"
    assert ingest.info.experiment_id != run.info.experiment_id
    digests = set()
    for each in (run, ingest):
        assert each.inputs is not None
        digests |= {tagged.dataset.digest for tagged in each.inputs.dataset_inputs}
    assert digests == {result.snapshot_digest}
    assert run.data.params["training.optimiser.num_steps"] == str(NUM_STEPS)
    assert run.data.params["recipe.validation"] == "*/validation"
    assert not {"out", "tracking_uri", "experiment", "register"} & run.data.params.keys()
    assert run.data.tags["bonafide.weights"] == result.weights
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == NUM_STEPS
    assert len(client.get_metric_history(run.info.run_id, "validation/eer")) == 3
    files = [file.path for file in client.list_artifacts(run.info.run_id)]
    assert files == ["config.toml", "validation.html"]


@uses_ray
def test_training_again_does_nothing(place: Path, whole: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = result_of(place, whole)
    train.main(config(place, whole))
    assert "nothing to do" in capsys.readouterr().out
    assert result_of(place, whole) == before


@uses_ray
def test_other_settings_need_another_folder(place: Path, whole: str) -> None:
    other = replace(config(place, whole), variant="tiny_group")
    with pytest.raises(InputError, match="variant was tiny and is tiny_group"):
        train.main(other)


@uses_ray
def test_a_second_driver_is_refused_with_the_process_that_holds_the_folder(place: Path) -> None:
    out = Folder(str(place / "shared"))
    refusal = pytest.raises(InputError, match=r"process \d+ on .*shared .* UTC")
    with lease.held(out), refusal:
        train.main(config(place, "shared"))
    assert record.load_record(out) is None


@uses_ray
def test_a_disconnected_controller_does_not_train_on_and_reserves_nothing(cluster: None) -> None:
    import ray

    reserved = placement_group([{"CPU": 1}])
    controller: Any = ray.remote(num_cpus=0)(Controller).remote()
    process = Path(f"/proc/{ray.get(controller.process.remote())}")
    assert process.exists() and reserved.wait(60)
    lost = ActorUnavailableError("the connection was reset", controller._actor_id.binary())
    LeanTrainer(lambda: None).end_controller(lost)
    until = time.monotonic() + 60
    while process.exists() or placement_group_table(reserved)["state"] != "REMOVED":
        assert time.monotonic() < until, "the controller lives, or its reservation does"
        time.sleep(0.05)


class Controller:
    """Stands in for the controller of Ray Train."""

    def process(self) -> int:
        return os.getpid()


@uses_ray
def test_missing_spoof_utterances_in_the_validation_data_are_named(place: Path) -> None:
    snapshot = load_snapshot(Folder(str(place / "store")))
    asked = replace(config(place, "x"), corpora=Names(["ljspeech"]))
    with pytest.raises(InputError, match="ljspeech"):
        check_data(resolve(asked, None, Recipe(), snapshot))


@uses_ray
def test_a_weight_of_an_unknown_corpus_is_refused_before_the_training_starts(place: Path) -> None:
    snapshot = load_snapshot(Folder(str(place / "store")))
    asked = replace(config(place, "x"), batch=BatchConfig(weights={"libritts_z": 2.0}))
    with pytest.raises(InputError, match="'libritts_z' is not a corpus"):
        check_data(resolve(asked, None, Recipe(), snapshot))


@uses_ray
def test_ingested_noise_is_in_the_training_batches_and_never_among_their_utterances(place: Path) -> None:
    store = Folder(str(place / "store"))
    snapshot = load_snapshot(store)
    assert snapshot.corpora["musan"].hours.keys() == {"noise"}
    augment = read_steps([{"name": "noise", "from": "musan", "snr_db": [-20, -20]}])
    asked = replace(config(place, "noisy"), augment=augment, loader_workers=1)
    training = resolve(asked, None, Recipe(), snapshot)
    check_data(training)
    data = WorkerData(training, 0, 1)
    uids = {uid for batch in data.batches(0, 0) for uid in batch.uid}
    uids |= {uid for batch in data.validation_batches() for uid in batch.uid}
    noises = load_utterances(store, only_named(snapshot, ["musan"]), ["uid"])["uid"].to_pylist()
    assert len(noises) == 3 and not uids & set(noises)
    for batch in data.batches(0, 0):
        for row, num_samples in zip(batch.waveform, batch.num_samples.tolist(), strict=True):
            spectrum = torch.fft.rfft(row[:num_samples]).abs() ** 2
            around = slice(round(2_900 * num_samples / 16_000), round(3_100 * num_samples / 16_000))
            assert spectrum[around].sum() > 0.9 * spectrum.sum()
    with pytest.raises(
        InputError, match="musan is an augmentation corpus, whose recordings are not utterances"
    ):
        resolve(replace(asked, corpora=Names(["musan"])), None, Recipe(), snapshot)
    for wrong, message in (
        (
            {"name": "room", "from": "musan"},
            "'musan': the corpus has no recordings of the kind rir; it has: noise",
        ),
        ({"name": "noise", "from": "musen"}, "'musen': snapshot 000001 has no such corpus for augmentation"),
    ):
        with pytest.raises(InputError, match=message):
            train.main(replace(asked, augment=read_steps([wrong])))
    with pytest.raises(InputError, match=r'labels = \["spoof"\]'):
        train.main(replace(asked, augment=read_steps(["codec"])))
    assert record.load_record(Folder(asked.out)) is None


@uses_ray
def test_a_training_on_frames_needs_regions_and_labels_the_frames_of_its_batches(place: Path) -> None:
    store = Folder(str(place / "store"))
    snapshot = load_snapshot(store)
    asked = with_frame_weight(config(place, "framed"))
    with pytest.raises(
        InputError, match=r"frame-weight: no training utterance of asvspoof2019_la has regions"
    ):
        train.main(asked)
    assert record.load_record(Folder(asked.out)) is None
    table = load_utterances(store, snapshot, ["uid", "label", "split", "seconds"])
    selecting = replace(asked, training=replace(asked.training, select_by="frames"))
    for splits in (["validation"], ["train"], ["train", "validation"]):
        digest = "-".join(splits)
        rows = [
            {"uid": row["uid"], "start_s": start, "end_s": start + row["seconds"] / 2, "label": label}
            for row in table.to_pylist()
            if row["split"] in splits and row["label"] == "spoof"
            for start, label in ((0.0, "bonafide"), (row["seconds"] / 2, "spoof"))
        ]
        store.commit(
            regions_name("asvspoof2019_la", digest), tables.to_parquet(pa.Table.from_pylist(rows, REGIONS))
        )
        regions = RegionSummary(digest, 2, {}, {}, {})
        labelled = replace(snapshot.corpora["asvspoof2019_la"], regions=regions)
        training = resolve(asked, None, Recipe(), replace(snapshot, corpora={"asvspoof2019_la": labelled}))
        if splits == ["validation"]:
            with pytest.raises(InputError, match="no training utterance"):
                check_data(training)
            continue
        check_data(training)
        if splits == ["train"]:
            with pytest.raises(
                InputError, match=r"select-by frames: no validation utterance .* regions of bonafide or spoof"
            ):
                check_data(replace(training, config=selecting))
    check_data(replace(training, config=selecting))
    with pytest.raises(InputError, match="speed moves speech in time"):
        check_data(replace(training, config=replace(asked, augment=read_steps(["speed"]))))
    data = WorkerData(training, 0, 1)
    assert data.log_odds() is None
    assert re.search(r"frame labels: 0\.0 h in the regions of \d+ training utterances", data.summary())
    for batch in data.batches(0, 0):
        assert batch.frame_label is not None
        num_spoof, num_bonafide = ((batch.frame_label == label).sum(dim=1) for label in (0, 1))
        assert not batch.label[num_spoof > 5].any()
        assert ((num_spoof > 5) & (num_bonafide > 0)).any()
    for batch in data.validation_batches():
        assert batch.frame_label is not None
        assert torch.equal((batch.frame_label >= 0).any(dim=1), batch.label == 0)
    assert WorkerData(replace(training, config=config(place, "plain")), 0, 1).log_odds() is not None


def with_frame_weight(asked: TrainConfig) -> TrainConfig:
    return replace(asked, training=replace(asked.training, loss=LossConfig(frame_weight=1.0)))


def test_frames_select_the_weights_only_if_they_are_labelled() -> None:
    with pytest.raises(
        InputError, match=r"select-by frames needs labels of frames; set --training.loss.frame-"
    ):
        TrainConfig(store="store", out="out", training=TrainingConfig(select_by="frames"))


def test_a_head_without_frame_logits_is_refused_before_anything_is_written() -> None:
    with pytest.raises(
        InputError, match=r"--training.loss.frame-weight needs logits of frames, which a mhfa head"
    ):
        with_frame_weight(TrainConfig(store="store", out="out", head=HeadConfig("mhfa")))


@uses_ray
def test_a_validation_is_measured_by_attack_whatever_the_domains_of_the_recipe(place: Path) -> None:
    recipe = Recipe(domains=DomainRule(by="corpus"))
    training = resolve(config(place, "x"), None, recipe, load_snapshot(Folder(str(place / "store"))))
    groups = WorkerData(training, 0, 1).group_of
    assert set(groups.values()) == {Group("asvspoof2019_la"), Group("asvspoof2019_la", "A01")}
    assert len(groups) == 16


@uses_ray
def test_finding_the_largest_batch_needs_a_gpu(place: Path) -> None:
    asked = replace(config(place, "filled", (1, 1)), find_batch_seconds=True)
    with pytest.raises(InputError, match="GPU"):
        train.main(asked)
    assert record.load_record(Folder(asked.out)) is None


@uses_ray
def test_a_worker_draws_and_describes_the_domains_of_the_recipe(place: Path) -> None:
    rule = DomainRule(cap_hours=5 / 3600, bonafide_ratio=2.0, max_repeats=4)  # about half of the speech
    snapshot = load_snapshot(Folder(str(place / "store")))
    data = WorkerData(resolve(config(place, "unused"), None, Recipe(domains=rule), snapshot), rank=0, world=1)
    line = data.summary().splitlines()[1]
    assert line.startswith("domains: 2; effective number 2.0 by hours, 1.9 as drawn; ")
    assert data.log_odds() == pytest.approx(math.log(2), abs=0.1)
    labels = [
        label for epoch in range(4) for batch in data.batches(epoch, 0) for label in batch.label.tolist()
    ]
    assert len(labels) == pytest.approx(4 * 15 / 0.4, rel=0.15)  # 15 s per epoch
    assert np.mean(labels) == pytest.approx(2 / 3, abs=0.05)


def test_a_corpus_that_the_recipe_lacks_is_named() -> None:
    asked = TrainConfig(store="s", out="o", recipe="antideepfake", corpora=Names(["mls", "wildsvdd"]))
    with pytest.raises(InputError, match="recipe antideepfake has no wildsvdd"):
        choose_recipe(asked)
