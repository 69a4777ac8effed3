"""Checkpoints that are missing, damaged, changed, or of a form that cannot be read exactly."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file

from jobs.training import folder as run_folder
from jobs.training.checks import choose_recipe
from jobs.training.config import TrainConfig
from jobs.training.record import TrainingRecord, TrainingResult, write_record, write_result
from jobs.training.resolve import fixed_settings, resolve
from pipeline import tracking
from pipeline.data.audio.flac import encode_flac, quantise
from pipeline.data.store import shards
from pipeline.data.store.snapshot import CorpusSnapshot, commit_snapshot, load_snapshot
from pipeline.detector.checkpoint import save_detector
from pipeline.detector.huggingface import export_transformers
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.storage import Folder
from tests.jobs.situations.situation import Place, Situation

FILE = "detector.safetensors"


def make_detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(DetectorConfig(VARIANTS["tiny"]))


def make_audio(here: Path) -> None:
    """A folder with one audio file, for commands that check their checkpoint after the audio."""
    (here / "audio").mkdir()
    soundfile.write(here / "audio" / "a.wav", np.sin(np.arange(8_000) / 9), 16_000)


def make_store(here: Path) -> None:
    """A store that a training accepts: a corpus with one utterance for each label and split."""
    members: list[Any] = []
    for number in range(4):
        name = f"{number}.flac"
        samples = np.random.default_rng(number).standard_normal(8_000).astype(np.float32) * 0.1
        Folder(str(here / "loose")).commit(name, encode_flac(quantise(samples)))
        member: dict[str, Any] = dict.fromkeys(shards.ShardMember.__annotations__)
        member |= {"uid": f"{number:016x}", "id": name, "path": name, "corpus": "noise"}
        split, label = ("train", "validation")[number // 2], ("bonafide", "spoof")[number % 2]
        members.append(member | {"label": label, "split": split})
    store = Folder(str(here / "store"))
    written = shards.write_shard(
        "noise-0", members, Folder(str(here / "loose")), store, licence="", resampler="soxr_hq"
    )
    corpus = CorpusSnapshot("noise", "train", "", None, "", "", 4, {}, {}, {}, (written,))
    commit_snapshot(store, [corpus])


def with_file(content: bytes, name: str = FILE) -> Callable[[Place], None]:
    """Prepare audio, and a file with some bytes in the place of a checkpoint."""

    def prepare(place: Place) -> None:
        make_audio(place.here)
        (place.here / name).write_bytes(content)

    return prepare


def without_checkpoint(place: Place) -> None:
    make_audio(place.here)


def empty_folder(place: Place) -> None:
    make_audio(place.here)
    (place.here / "run").mkdir()


def folder_of_a_training(place: Place) -> None:
    empty_folder(place)
    save_detector(make_detector(), place.here / "run" / FILE, {})


def cut_short(place: Place) -> None:
    make_audio(place.here)
    save_detector(make_detector(), place.here / FILE, {})
    content = (place.here / FILE).read_bytes()
    (place.here / FILE).write_bytes(content[: len(content) // 2])


def changed_after_saving(place: Place) -> None:
    make_audio(place.here)
    save_detector(make_detector(), place.here / FILE, {})
    content = bytearray((place.here / FILE).read_bytes())
    content[-1] ^= 1
    (place.here / FILE).write_bytes(content)


def not_a_number(place: Place) -> None:
    make_audio(place.here)
    detector = make_detector()
    with torch.no_grad():
        next(detector.head.parameters())[0, 0] = float("nan")
    save_detector(detector, place.here / FILE, {})


def two_sets_of_weights(place: Place) -> None:
    make_audio(place.here)
    weights = make_detector().state_dict()
    torch.save(weights | {f"ema.{name}": tensor for name, tensor in weights.items()}, place.here / "last.pt")


def front_end_only(place: Place) -> None:
    make_audio(place.here)
    weights = make_detector().state_dict()
    front_end = {name: tensor for name, tensor in weights.items() if name.startswith("m_ssl.")}
    torch.save({"model": front_end}, place.here / "ssl.pt")


def missing_shard(place: Place) -> None:
    make_audio(place.here)
    export_transformers(make_detector(), place.here / "model")
    tensors = load_file(place.here / "model" / "model.safetensors")
    (place.here / "model" / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file(dict(list(tensors.items())[:9]), place.here / "model" / names[0])
    index = {"weight_map": {name: names[at >= 9] for at, name in enumerate(tensors)}}
    (place.here / "model" / "model.safetensors.index.json").write_text(json.dumps(index))


def other_settings(**settings: object) -> Callable[[Place], None]:
    """Prepare a transformers folder with some settings that do not fit."""

    def prepare(place: Place) -> None:
        make_audio(place.here)
        export_transformers(make_detector(), place.here / "model")
        file = place.here / "model" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return prepare


def replaced_after_registration(place: Place) -> None:
    make_audio(place.here)
    register(place.here, save_detector(make_detector(), place.here / FILE, {}))
    save_detector(make_detector(seed=1), place.here / FILE, {})


def store_and_replaced_after_registration(place: Place) -> None:
    make_store(place.here)
    replaced_after_registration(place)


def removed_after_registration(place: Place) -> None:
    make_audio(place.here)
    register(place.here, save_detector(make_detector(), place.here / FILE, {}))
    (place.here / FILE).unlink()


@functools.cache
def empty_database() -> bytes:
    """A database of MLflow; making one takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        with tracking.run(f"sqlite:///{file}", "bonafide", job="train", name="train"):
            pass
        return file.read_bytes()


def register(here: Path, digest: str) -> None:
    uri = f"sqlite:///{here}/mlflow.db"
    (here / "mlflow.db").write_bytes(empty_database())
    with tracking.run(uri, "bonafide", job="train", name="train") as run:
        pass
    tags = {"weights": digest, "error": 0.1, "validation": "v"}
    tracking.register(uri, "calls", str(here / FILE), run_id=str(run.run_id), tags=tags, description="")


def store_only(place: Place) -> None:
    make_store(place.here)


def store_and_other_variant(place: Place) -> None:
    make_store(place.here)
    torch.manual_seed(0)
    save_detector(Detector(DetectorConfig(VARIANTS["tiny_group"])), place.here / FILE, {})


def started(place: Place) -> tuple[Path, TrainingRecord]:
    """A training that was started, without a step."""
    make_store(place.here)
    out = place.here / "run"
    config = replace(TrainConfig(store=str(place.here / "store"), out=str(out)), variant="tiny")
    training = resolve(config, None, choose_recipe(config), load_snapshot(Folder(config.store)))
    digest = save_detector(make_detector(), out / run_folder.INITIAL, {})
    snapshot = training.snapshot.name, training.snapshot_digest
    record = TrainingRecord("feedbeef", fixed_settings(training), *snapshot, digest)
    write_record(Folder(str(out)), record)
    return out, record


def complete(place: Place) -> Path:
    """A training that is complete."""
    out, record = started(place)
    digest = save_detector(make_detector(seed=1), out / run_folder.DETECTOR, {})
    of_record = record.id, record.snapshot, record.snapshot_digest, record.initial_weights
    result = TrainingResult(*of_record, digest, 10, "raw", "pooled", {"pooled": 0.1}, 10, None)
    write_result(Folder(str(out)), result)
    return out


def detector_removed(place: Place) -> None:
    (complete(place) / run_folder.DETECTOR).unlink()


def detector_replaced(place: Place) -> None:
    save_detector(make_detector(seed=2), complete(place) / run_folder.DETECTOR, {})


def detector_cut_short(place: Place) -> None:
    file = complete(place) / run_folder.DETECTOR
    file.write_bytes(file.read_bytes()[:-4])


def initial_replaced(place: Place) -> None:
    out, _ = started(place)
    save_detector(make_detector(seed=2), out / run_folder.INITIAL, {})


def only_a_detector(place: Place) -> None:
    make_store(place.here)
    (place.here / "run").mkdir()
    save_detector(make_detector(), place.here / "run" / run_folder.DETECTOR, {})


SCORE = "score --audio {here}/audio --out {here}/scores --checkpoint "
TRAIN = "train --variant tiny --store {here}/store --out {here}/run"
RESTORE = "restore the file, or train again with another --out"

SITUATIONS = [
    Situation(
        what="a checkpoint that does not exist",
        command=SCORE + "{here}/detector.safetensors",
        line="{here}/detector.safetensors: no such checkpoint",
        prepare=without_checkpoint,
    ),
    Situation(
        what="a checkpoint to start from that does not exist",
        command=TRAIN + " --init {here}/xlsr2_300m.pt",
        line="{here}/xlsr2_300m.pt: no such checkpoint",
        prepare=store_only,
    ),
    Situation(
        what="a checkpoint to start from of another variant",
        command=TRAIN + " --init {here}/detector.safetensors",
        line="{here}/detector.safetensors: is of variant tiny_group: conv_norm is group instead of layer, …",
        prepare=store_and_other_variant,
        remedy="`--variant` names the network to train.",
    ),
    Situation(
        what="a folder without anything in the place of a checkpoint",
        command=SCORE + "{here}/run",
        line="{here}/run: a folder without model.safetensors or pytorch_model.bin; give the file of a checkpoint",
        prepare=empty_folder,
    ),
    Situation(
        what="the folder of a training in the place of its detector",
        command=SCORE + "{here}/run",
        line="{here}/run: a folder without … or pytorch_model.bin; name one of its files: detector.safetensors",
        prepare=folder_of_a_training,
    ),
    Situation(
        what="a checkpoint without its content, because Git LFS is not installed",
        command=SCORE + "{here}/detector.safetensors",
        line="{here}/detector.safetensors: a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder",
        prepare=with_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1262000000\n"),
    ),
    Situation(
        what="a web page that was downloaded in the place of a checkpoint",
        command=SCORE + "{here}/xlsr.pt",
        line="{here}/xlsr.pt: a web page, not a checkpoint; download it again, by the link to the raw file",
        prepare=with_file(b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n", "xlsr.pt"),
    ),
    Situation(
        what="a checkpoint that is cut short",
        command=SCORE + "{here}/detector.safetensors",
        line="{here}/detector.safetensors: damaged safetensors file: …; it may be cut short: copy or download it again",
        prepare=cut_short,
    ),
    Situation(
        what="a checkpoint that was changed after it was saved",
        command=SCORE + "{here}/detector.safetensors",
        line="{here}/detector.safetensors: the weights were changed after they were saved: the digest differs; …",
        prepare=changed_after_saving,
    ),
    Situation(
        what="weights that are not numbers",
        command=SCORE + "{here}/detector.safetensors",
        line="{here}/detector.safetensors: NaN or infinite values in proj_fc.weight; its training diverged, …",
        prepare=not_a_number,
    ),
    Situation(
        what="averaged weights in the same dictionary as the others",
        command=SCORE + "{here}/last.pt",
        line="{here}/last.pt: has several sets of weights (m_ssl.model, ema.m_ssl.model); save the one that you mean …",
        prepare=two_sets_of_weights,
    ),
    Situation(
        what="a self-supervised model in the place of a detector",
        command=SCORE + "{here}/ssl.pt",
        line="{here}/ssl.pt (AntiDeepfake): 2 missing: proj_fc.bias, proj_fc.weight; it has no head: …",
        prepare=front_end_only,
    ),
    Situation(
        what="a shard of weights that is missing",
        command=SCORE + "{here}/model",
        line="{here}/model/model-00002-of-00002.safetensors: missing, but model.safetensors.index.json names it; …",
        prepare=missing_shard,
    ),
    Situation(
        what="settings of transformers with an unknown value",
        command=SCORE + "{here}/model",
        line="{here}/model/config.json: feat_extract_norm is 'batch'; known: layer, group",
        prepare=other_settings(feat_extract_norm="batch"),
    ),
    Situation(
        what="a registered detector whose file was replaced by a later training",
        command=SCORE + "models:/calls/1 --tracking-uri sqlite:///{here}/mlflow.db",
        line="models:/calls/1: its weights were replaced: registered were …, but {here}/detector.safetensors has …; "
        "put the registered file back, or name another version: models:/calls/NUMBER",
        prepare=replaced_after_registration,
    ),
    Situation(
        what="a registered detector to start from whose file was replaced by a later training",
        command=TRAIN + " --init models:/calls/1 --tracking-uri sqlite:///{here}/mlflow.db",
        line="models:/calls/1: its weights were replaced: registered were …, but {here}/detector.safetensors has …; …",
        prepare=store_and_replaced_after_registration,
    ),
    Situation(
        what="a registered detector whose file is not on this machine",
        command=SCORE + "models:/calls@best --tracking-uri sqlite:///{here}/mlflow.db",
        line="models:/calls/1 is registered with weights that cannot be used: {here}/detector.safetensors: no such …",
        prepare=removed_after_registration,
    ),
    Situation(
        what="a new training in the folder of a detector",
        command=TRAIN,
        line="{here}/run/detector.safetensors: the detector of another training, which may be registered; "
        "choose another --out, or move the file away",
        prepare=only_a_detector,
    ),
    Situation(
        what="the detector of a complete training, removed",
        command=TRAIN,
        line="{here}/run/detector.safetensors: missing, but result.json names its weights; " + RESTORE,
        prepare=detector_removed,
    ),
    Situation(
        what="the detector of a complete training, replaced",
        command=TRAIN,
        line="{here}/run/detector.safetensors: was replaced: the weights on record are …, and these are …; "
        + RESTORE,
        prepare=detector_replaced,
    ),
    Situation(
        what="the detector of a complete training, cut short",
        command=TRAIN,
        line="{here}/run/detector.safetensors: damaged: … bytes instead of …; " + RESTORE,
        prepare=detector_cut_short,
    ),
    Situation(
        what="the untrained detector of a started training, replaced",
        command=TRAIN,
        line="{here}/run/initial.safetensors: was replaced: the weights on record are …, and these are …; "
        + RESTORE,
        prepare=initial_replaced,
    ),
]
