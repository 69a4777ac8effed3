"""How a training starts from a checkpoint, and what it publishes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.training import checkpoints, folder
from jobs.training.config import TrainConfig
from jobs.training.lifecycle import load_initial, publish, start
from jobs.training.resolve import ResolvedTraining
from pipeline import tracking
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.snapshot import Snapshot
from pipeline.detector.checkpoint import load_detector, save_detector
from pipeline.detector.config import LoraConfig, LossConfig, TrainingConfig
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.detector.state import TrainingProgress
from pipeline.detector.variants import HeadConfig
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.detector.toys import assert_same_weights
from tests.jobs.situations.checkpoints import empty_database

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedTraining:
    """A new training; no shard is read before its first step."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    config = TrainConfig(store=str(tmp_path / "store"), out=str(tmp_path / "run"), variant="tiny")
    snapshot = Snapshot(1, "2026-01-01T00:00:00+00:00", {})
    return ResolvedTraining(config, Recipe(), snapshot, snapshot, snapshot.digest)


def starting_from(training: ResolvedTraining, init: str, tracking_uri: str = "") -> ResolvedTraining:
    return replace(training, config=replace(training.config, init=init, tracking_uri=tracking_uri))


def save(path: Path, seed: int = 1, **metadata: str) -> str:
    torch.manual_seed(seed)
    return save_detector(Detector(DetectorConfig(VARIANTS["tiny"])), path, metadata)


def test_a_training_starts_from_a_file_on_s3_or_a_registered_version(
    training: ResolvedTraining, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = save(tmp_path / "x.safetensors")
    Folder(bucket).commit("x.safetensors", (tmp_path / "x.safetensors").read_bytes())
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with tracking.run(uri, "bonafide", job="train", name="train") as run:
        pass
    tags = {"weights": digest, "error": 0.1, "validation": "v"}
    tracking.register(
        uri, "calls", f"{bucket}/x.safetensors", run_id=str(run.run_id), tags=tags, description=""
    )
    for init in (f"{bucket}/x.safetensors", "models:/calls@best"):
        asked = starting_from(training, init, uri)
        initial = load_initial(asked)
        assert not training.out.exists(), "nothing is written while the checkpoint is checked"
        assert start(asked, initial).initial_weights == digest
        assert load_detector(tmp_path / "run" / folder.INITIAL).digest == digest
        for info in list(training.out.find()):
            training.out.delete(info.name)
        (tmp_path / "run").rmdir()
    assert "71 of 71 tensors" in (printed := capsys.readouterr().out)
    assert "models:/calls@best is models:/calls/1" in printed
    save(tmp_path / "x.safetensors", seed=2)
    Folder(bucket).commit("x.safetensors", (tmp_path / "x.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"models:/calls/1: its weights were replaced"):
        load_initial(starting_from(training, "models:/calls@best", uri))


def test_a_training_without_a_checkpoint_starts_from_the_weights_of_its_seed(
    training: ResolvedTraining, tmp_path: Path
) -> None:
    assert load_initial(training) is None
    record = start(training, None)
    assert record.initial_weights == save(tmp_path / "x", training.config.training.seed)


def test_a_training_with_another_head_starts_from_the_front_end_of_a_detector(
    training: ResolvedTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "x")
    asked = starting_from(training, str(tmp_path / "x"))
    asked = replace(asked, config=replace(asked.config, head=HeadConfig("mhfa", num_heads=2)))
    initial = load_initial(asked)
    assert "its mean_linear head is left out, the head keeps its initial weights" in capsys.readouterr().out
    start(asked, initial)
    written, source = (
        load_detector(file).detector for file in (tmp_path / "run" / folder.INITIAL, tmp_path / "x")
    )
    assert written.config == asked.config.detector
    assert_same_weights(written.front_end.state_dict(), source.front_end.state_dict())


def test_heads_losses_and_adapters_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    def config(**changes: Any) -> TrainConfig:
        return TrainConfig(
            store=str(tmp_path / "store"), out=str(tmp_path / "run"), variant="tiny", **changes
        )

    with pytest.raises(InputError, match="oc_softmax starts from a direction that a mhfa head does not have"):
        config(head=HeadConfig("mhfa"), training=TrainingConfig(loss=LossConfig("oc_softmax")))
    with pytest.raises(InputError, match=r"--training\.lora\.rank 65 is more than the 64 channels"):
        config(training=TrainingConfig(lora=LoraConfig(rank=65)))
    config(head=HeadConfig("mhfa"), training=TrainingConfig(lora=LoraConfig(rank=64)))


def test_a_training_whose_best_weights_are_gone_or_replaced_publishes_nothing(
    training: ResolvedTraining, tmp_path: Path
) -> None:
    record = start(training, None)
    (tmp_path / "state.pt").write_bytes(b"state")
    progress = TrainingProgress(step=20, best_step=10, best_error=0.25)
    checkpoints.commit_state(training.out.folder(folder.CHECKPOINTS), "step_00000020-0", tmp_path, progress)
    with pytest.raises(
        InputError, match=r"run/weights/step_00000010.safetensors: missing, but these weights are"
    ):
        publish(training.out, record, None)
    best = tmp_path / "run" / folder.weights_name(10)
    save(best, training="another", step="10")
    with pytest.raises(
        InputError, match=r"step_00000010.safetensors: was replaced: its header names another"
    ):
        publish(training.out, record, None)
    assert not training.out.exists(folder.DETECTOR)
    digest = save(best, training=record.id, step="10", weights="ema", eer="0.25", mean_eer_attacks="0.5")
    result = publish(training.out, record, None)
    assert (result.weights, result.best_weights) == (digest, "ema")
    assert result.error_rates == {"pooled": 0.25, "attacks": 0.5}
    assert result.summary == "EER 25.00% pooled, 50.00% mean of attacks; best pooled at step 10 (EMA)"
