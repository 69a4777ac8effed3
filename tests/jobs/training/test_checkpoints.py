"""Checkpoints in a folder: complete or never read."""

from __future__ import annotations

import os
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.training.checkpoints import (
    commit_state,
    load_state,
    newest_step,
    prune,
    prune_weights,
    save_state,
    saved_checkpoints,
)
from jobs.training.folder import (
    COMMITTED,
    METRICS,
    RAY_CHECKPOINT_LIST,
    STATE,
    WEIGHTS,
    new_checkpoint_name,
    weights_name,
)
from jobs.training.reporter import Reporter
from pipeline import tracking
from pipeline.detector.checkpoint import load_detector
from pipeline.detector.config import LoraConfig
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.detector.state import TrainingProgress
from pipeline.detector.validation import validate
from pipeline.detector.variants import HeadConfig
from pipeline.errors import InputError
from pipeline.lease import held
from pipeline.storage import Folder
from tests.detector.toys import TOY, TOY_GROUPS, run, toy_batch, toy_config, toy_detector, toy_validation
from tests.faults import fill, small_disk

MHFA = DetectorConfig(TOY, HeadConfig("mhfa", num_heads=2, compression_width=16, embedding_width=16))
PROGRESS = TrainingProgress(step=5, best_step=3, best_error=0.25, epoch=1)


def write(folder: Folder, step: int, tmp_path: Path) -> str:
    name = new_checkpoint_name(step)
    local = tmp_path / f"local-{name}"
    local.mkdir()
    save_state({"weights": torch.full((4,), float(step))}, local)
    commit_state(folder, name, local, replace(PROGRESS, step=step))
    return name


def test_the_newest_checkpoint_is_the_one_with_the_most_steps(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "checkpoints"))
    assert saved_checkpoints(folder) == []
    for step in (1000, 20, 3):
        write(folder, step, tmp_path)
    newest = saved_checkpoints(folder)[-1]
    assert (newest.step, newest.best_step) == (1000, 3)
    assert load_state(folder, newest)["weights"].tolist() == [1000.0] * 4


@pytest.mark.parametrize("damage", ["not committed", "half committed", "half a state", "no state"])
def test_an_incomplete_checkpoint_of_a_dead_worker_is_ignored(tmp_path: Path, damage: str) -> None:
    folder = Folder(str(tmp_path / "checkpoints"))
    complete, broken = write(folder, 1, tmp_path), write(folder, 2, tmp_path)
    committed, state = (Path(folder.location(f"{broken}/{file}")) for file in (COMMITTED, STATE))
    match damage:
        case "not committed":
            committed.unlink()
        case "half committed":
            committed.write_bytes(committed.read_bytes()[:10])
        case "half a state":
            os.truncate(state, state.stat().st_size // 2)
        case "no state":
            state.unlink()
    assert [saved.name for saved in saved_checkpoints(folder)] == [complete]
    assert newest_step(folder) == 1
    assert prune(folder, 2) == [broken]
    assert [saved.name for saved in saved_checkpoints(folder)] == [complete]
    assert [path.name for path in Path(folder.location()).iterdir()] == [complete]


def test_pruning_keeps_the_newest_checkpoints_and_other_files(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "checkpoints"))
    names = [write(folder, step, tmp_path) for step in (1, 2, 3)]
    folder.commit(RAY_CHECKPOINT_LIST, b"{}")
    assert prune(folder, 2) == [names[0]]
    assert [saved.name for saved in saved_checkpoints(folder)] == names[1:]
    assert folder.exists(RAY_CHECKPOINT_LIST)


def test_the_best_weights_are_kept_while_a_checkpoint_names_them(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    folder = out.folder("checkpoints")
    prune_weights(out, folder)
    for step in (1, 3, 7):
        out.commit(weights_name(step), b"weights")
    write(folder, 5, tmp_path)
    prune_weights(out, folder)
    assert [info.name for info in out.find(WEIGHTS)] == [weights_name(3)]


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["HOSTILE_PATH"],)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_PATH", str(tmp_path / "ran"))
    folder, local = Folder(str(tmp_path / "checkpoints")), tmp_path / "local"
    local.mkdir()
    torch.save({"weights": Hostile()}, local / STATE)
    commit_state(folder, "step_00000005-00000000", local, PROGRESS)
    with pytest.raises(pickle.UnpicklingError):
        load_state(folder, saved_checkpoints(folder)[-1])
    assert not (tmp_path / "ran").exists()


def test_checkpoints_can_be_stored_on_s3(bucket: str, tmp_path: Path) -> None:
    folder = Folder(f"{bucket}/out/checkpoints")
    assert saved_checkpoints(folder) == []
    names = [write(folder, step, tmp_path) for step in (1, 2)]
    assert prune(folder, 1) == [names[0]]
    assert load_state(folder, saved_checkpoints(folder)[-1])["weights"].tolist() == [2.0] * 4


def test_a_full_disk_for_temporary_files_is_named_where_a_state_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    with small_disk(tmp_path / "disk", 64):
        refused = pytest.raises(InputError, match=rf"^{tmp_path}/disk on \S+: No space left .* set TMPDIR")
        with refused:
            save_state({"weights": torch.zeros(100_000)}, tmp_path / "disk")
        with refused:
            save_state({"weights": torch.zeros(16_200)}, tmp_path / "disk")  # only the end does not fit


def test_the_weights_of_a_training_with_adapters_are_those_of_an_ordinary_detector(tmp_path: Path) -> None:
    out, lora = Folder(str(tmp_path / "run")), LoraConfig(rank=4, alpha=32.0)
    untrained = toy_detector(MHFA)
    trained, log, _ = run(toy_config(10, lora=lora), detector_config=MHFA)
    validation = validate(trained, toy_validation(), torch.device("cpu"), TOY_GROUPS)
    metadata = {"variant": "tiny", "training": "1"}
    with held(out) as lease, tracking.run("", "bonafide", job="train", name="train") as tracked:
        reporter = Reporter(out, lease.fence, untrained, metadata, tracked, 0, 1, "pooled", lora)
        reporter._save_weights(10, validation, log.states[10])
    loaded = load_detector(tmp_path / "run" / weights_name(10))
    assert loaded.detector.config == MHFA
    assert loaded.metadata["step"] == "10"
    assert loaded.detector.state_dict().keys() == untrained.state_dict().keys()
    batch = toy_batch(0, 0)
    with torch.no_grad():
        saved, expected, before = (
            each.eval()(batch.waveform, batch.num_samples).embedding
            for each in (loaded.detector, trained, untrained)
        )
    torch.testing.assert_close(saved, expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 1e-3
    name = "m_ssl.model.encoder.layers.0.fc1.weight"
    assert torch.equal(log.states[10]["detector"][name], untrained.state_dict()[name])
    assert not torch.equal(loaded.detector.state_dict()[name], untrained.state_dict()[name])


def test_a_full_disk_is_named_where_metrics_are_written(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "disk"))
    with (
        small_disk(tmp_path / "disk", 64),
        held(out) as lease,
        tracking.run(
            "", "bonafide", job="train", name="train", metrics_file=tmp_path / "disk" / METRICS
        ) as run,
    ):
        detector = Detector(DetectorConfig(VARIANTS["tiny"]))
        report = Reporter(
            out, lease.fence, detector, {"variant": "tiny", "training": "1"}, run, 0, 1, "pooled"
        )
        fill(tmp_path / "disk")
        with pytest.raises(
            InputError, match=rf"^{tmp_path}/disk/{METRICS}: No space left .*; make room there"
        ):
            report(PROGRESS, {"train/loss": 1.0}, None, None)
