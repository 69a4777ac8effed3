"""Post-train a detector on a snapshot with Ray Train.

    bonafide train --config jobs/presets/xlsr_300m.toml --store STORE --out OUT --init xlsr2_300m.pt

Run the same command again after any interruption: it goes on from the newest checkpoint in OUT.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from jobs.ray_session import ray_session
from jobs.training import batch_size as batch_seconds
from jobs.training import checkpoints, registration
from jobs.training import worker as rank
from jobs.training.driver import train_to_the_end
from jobs.training.signals import Interrupts
from pipeline import lease, tracking
from pipeline.config import Bounds, Names, run, to_dict, to_toml
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import EXCLUDED, Recipe, Use, find_leakage, load_recipe
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.store.snapshot import Snapshot, load_snapshot, load_utterances
from pipeline.detector.config import TrainingConfig
from pipeline.detector.variants import VARIANTS, DetectorConfig
from pipeline.errors import InputError
from pipeline.storage import Folder

FREE = {
    *("checkpoint_every", "checkpoint_minutes", "log_every", "peak_tflops"),
    *("strategy", "activation_checkpointing", "compile"),
}
"""Settings of a training that may change while it goes on: when it saves and speaks, and how the same is computed."""

CHUNK_TOLERANCE_S = 0.05
"""By how much a chunk may miss its length after resampling."""


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and where to put it."""

    store: str
    """Folder or s3:// URI with the shards and snapshots that `bonafide ingest` wrote."""
    out: str
    """Folder or s3:// URI for checkpoints and the trained detector."""
    snapshot: str = "latest"
    """Name of the snapshot; a training that goes on keeps the one it began with."""
    recipe: str = ""
    """Name or TOML file of a recipe: what trains, what validates, how often, what counts as spoof. By default all
    but the validation splits trains, and every artifact is spoof."""
    corpora: Names = Names()
    """Corpora to train on and to validate with; by default those of the recipe, or all training corpora."""
    variant: str = "xlsr_300m"
    """Shape of the detector."""
    init: str = ""
    """Checkpoint file to start from: a self-supervised model or a detector; random weights without one."""
    num_workers: Bounds = Bounds((1, 1))
    """Ranks; one GPU each where there are GPUs. Two numbers, 4,16: at least and at most; the training grows and
    shrinks with the cluster."""
    cpus_per_worker: int = 1
    loader_workers: int = 0
    """Processes that read and decode for each rank; 0 does it in the rank itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs if the cluster has any."""
    max_failures: int = 3
    """Times in a row, with no new checkpoint between them, that failed workers are started again."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; the best weights are kept apart from them."""
    augment: Names = Names()
    """Augmentations of training utterances, one after the other: rawboost1 … rawboost8, noise, reverberation …"""
    chunk_s: float = 0.0
    """Cut longer training utterances to a random window of just so many seconds, instead of batch.crop_min_s to
    batch.crop_max_s. The paper fine-tunes on Deepfake-Eval-2024 with 4, 10, 13, 30 and 50; an ingest with the same
    --chunk-s cuts its files for validation and test. 0: as batch says."""
    find_batch_seconds: bool = False
    """Find the largest batch.max_seconds that fits into the memory of a GPU, once, when the training begins."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking_uri: str = ""
    """MLflow tracking server or database; nothing is tracked without one."""
    experiment: str = "bonafide"
    """MLflow experiment."""
    register: str = "bonafide-{variant}"
    """What the published detector is registered as in MLflow: `bonafide score --checkpoint models:/NAME@best`.
    Empty: it is not registered."""

    def __post_init__(self) -> None:
        if self.register:
            tracking.check_name(registration.registered_name(self))
        if self.variant not in VARIANTS:
            raise InputError(f"unknown variant {self.variant!r}; known: {', '.join(VARIANTS)}")
        if self.chunk_s < 0:
            raise InputError(f"chunk_s is {self.chunk_s}; it must be above 0, or 0 for none")
        for name in ("cpus_per_worker", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        least, most = self.num_workers
        if not 1 <= least <= most:
            raise InputError(
                f"num_workers is {least} to {most}; it must be at least 1, and the second not below"
            )


@dataclass(frozen=True)
class Begun:
    """What a training fixed when it began (OUT/begun.json); going on must not change it."""

    id: str
    settings: dict[str, Any]
    """Everything that decides the weights."""
    snapshot: str
    snapshot_digest: str
    initial_weights: str
    """Digest of OUT/initial.safetensors."""


def main(config: TrainConfig) -> None:
    """Begin or go on, train on the cluster, publish the best weights."""
    started = time.monotonic()
    out, store = Folder(config.out), Folder(config.store)
    config = replace(config, tracking_uri=tracking.absolute_uri(config.tracking_uri))
    begun = load_begun(out)
    snapshot = load_snapshot(store, begun.snapshot if begun else config.snapshot)
    recipe = choose_recipe(config)
    config = with_weights(config, recipe, rank.training_snapshot(snapshot, config, recipe))
    config = with_chunks(config)
    if begun is None:
        check_data(config, recipe, store, snapshot)
    else:
        check_settings(begun, with_batch_seconds(config, begun), recipe, snapshot)
    if out.exists("train.json"):
        print(f"{out.location('detector.safetensors')} is trained already; nothing to do")
        if begun is not None:
            registration.register(config, begun, json.loads(out.read("train.json")))
        return
    needed = config.num_workers[0] * config.cpus_per_worker
    with (
        Interrupts("train") as interrupts,
        lease.held(out) as owned,
        ray_session(num_cpus=max(needed, os.cpu_count() or 1)),
    ):
        interrupts.install()
        config = with_batch_seconds(config, load_begun(out))
        begun = begin_or_go_on(out, config, recipe, snapshot)
        out.commit("config.toml", tracking.without_credentials(to_toml(config)).encode())
        with track(config, begun, recipe, snapshot) as tracked:
            arguments = rank.RankArguments(config, begun, recipe, tracked.run_id, owned.fence)
            train_to_the_end(arguments, interrupts)
            owned.fence.check()
            done = publish(out, begun, tracked.run_id)
            registration.tell(config, begun, snapshot, done, tracked)
    print(
        f"trained in {time.monotonic() - started:.0f} s; best validation EER {done['best_eer']:.2%} "
        f"at step {done['best_step']}: {out.location('detector.safetensors')}"
    )
    if tracked.url:
        print(f"MLflow: {tracked.url}")


def choose_recipe(config: TrainConfig) -> Recipe:
    """The recipe that the command names, or the one of the paper for whatever the store holds.

    Raises:
        InputError: there is no such recipe, it is malformed, or does not speak of a corpus that is asked for.
    """
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    strangers = sorted(set(config.corpora) - set(recipe.corpora)) if recipe.corpora else []
    if strangers:
        raise InputError(f"recipe {recipe.name} has no {', '.join(strangers)}; leave it out of --corpora")
    return recipe


def with_weights(config: TrainConfig, recipe: Recipe, snapshot: Snapshot) -> TrainConfig:
    """The config with the recipe's weights of what is there; those of the command go before them."""
    weights = recipe.weights_of(snapshot.corpora) | config.batch.weights
    return replace(config, batch=replace(config.batch, weights=weights))


def with_chunks(config: TrainConfig) -> TrainConfig:
    """The config with windows of just so many seconds, if it asks for them."""
    if not config.chunk_s:
        return config
    return replace(config, batch=replace(config.batch, crop_min_s=config.chunk_s, crop_max_s=config.chunk_s))


def with_batch_seconds(config: TrainConfig, begun: Begun | None) -> TrainConfig:
    """The config with the batches that fit into memory, if it asks for them: as found when the training began."""
    if not config.find_batch_seconds:
        return config
    seconds = begun.settings["batch"]["max_seconds"] if begun else batch_seconds.find_on_cluster(config)
    return replace(config, batch=replace(config.batch, max_seconds=seconds))


def check_chunks(config: TrainConfig, table: pa.Table) -> None:
    """Refuse windows that are longer than the pieces into which an ingest has cut a corpus."""
    manifests = load_manifests()
    longest = table.group_by("corpus").aggregate([("seconds", "max")])
    for corpus, seconds in zip(
        longest["corpus"].to_pylist(), longest["seconds_max"].to_pylist(), strict=True
    ):
        chunks = manifests[corpus].chunks if corpus in manifests else None
        for length in {chunks.seconds, *chunks.choices} if chunks else ():
            if abs(length - seconds) < CHUNK_TOLERANCE_S and length < config.chunk_s:
                raise InputError(
                    f"{corpus} lies in the store in chunks of {length:g} s; ingest it again with "
                    f"--chunk-s {config.chunk_s:g}"
                )


def check_data(config: TrainConfig, recipe: Recipe, store: Folder, snapshot: Snapshot) -> None:
    """Refuse data that cannot be trained on before a cluster is asked for; say what a recipe does not get.

    Raises:
        InputError: bona fide or spoof utterances are missing in what trains or in what validates, or the ingest
            left out what the recipe needs.
    """
    snapshot = rank.training_snapshot(snapshot, config, recipe)
    check_exclusions(recipe, snapshot)
    table = load_utterances(store, snapshot, ["corpus", "label", "artifact", "split", "seconds"])
    check_chunks(config, table)
    purposes: tuple[tuple[Use, str], ...] = (("train", "train on"), ("validation", "validate with"))
    for use, purpose in purposes:
        chosen = recipe.labelled(table.filter(pa.array(recipe.uses(table, use))))
        lacking = " and no ".join(sorted(set(LABELS) - set(pc.unique(chosen["label"]).to_pylist())))
        if lacking:
            raise InputError(
                f"snapshot {snapshot.name} has no {lacking} utterances to {purpose} in "
                f"{', '.join(snapshot.corpora)}; ingest or name more corpora"
            )
    if config.recipe:
        for line in describe_recipe(config, recipe, table):
            print(line, flush=True)


def check_exclusions(recipe: Recipe, snapshot: Snapshot) -> None:
    """Refuse a snapshot whose ingest left out what this recipe uses."""
    for name, corpus in snapshot.corpora.items():
        for reason in corpus.excluded:
            split = reason.removeprefix(EXCLUDED)
            if recipe.use(name, split) != "excluded":
                raise InputError(
                    f"{f'recipe {recipe.name}' if recipe.name else 'the training'} needs {name}/{split}, which the "
                    f"ingest of snapshot {snapshot.name} left out; ingest {name} again without --recipe"
                )


def describe_recipe(config: TrainConfig, recipe: Recipe, table: pa.Table) -> list[str]:
    """What of a recipe the store does not have, and what is on both sides of it."""
    parts = table.group_by(["corpus", "split"]).aggregate([])
    pairs = list(zip(parts["corpus"].to_pylist(), parts["split"].to_pylist(), strict=True))
    lines = []
    absent = [name for name in config.corpora or recipe.corpora if name not in {pair[0] for pair in pairs}]
    if absent:
        lines.append(f"recipe {recipe.name}: the snapshot has no {', '.join(absent)}")
    leakage = find_leakage(recipe, pairs, load_manifests())
    shared = ", ".join(leakage.sources) or "no source of genuine speech"
    lines.append(f"recipe {recipe.name}: {shared} in what trains and in what validates")
    if leakage.unknown:
        lines.append(f"recipe {recipe.name}: the sources of {', '.join(leakage.unknown)} are unknown")
    return lines


def load_begun(out: Folder) -> Begun | None:
    """What an earlier run of the command fixed, if there was one."""
    return Begun(**json.loads(out.read("begun.json"))) if out.exists("begun.json") else None


def begin_or_go_on(out: Folder, config: TrainConfig, recipe: Recipe, snapshot: Snapshot) -> Begun:
    """What this training fixed: now, or when it began, which another driver may have done a moment ago."""
    begun = load_begun(out)
    if begun is None:
        return begin(out, config, recipe, snapshot)
    check_settings(begun, config, recipe, snapshot)
    return begun


def begin(out: Folder, config: TrainConfig, recipe: Recipe, snapshot: Snapshot) -> Begun:
    """Publish the untrained detector as `initial.safetensors`, and fix the settings."""
    import torch

    from pipeline.detector.checkpoint import load_weights, save_detector
    from pipeline.detector.network import Detector

    torch.manual_seed(config.training.seed)
    detector = Detector(DetectorConfig(VARIANTS[config.variant]))
    if config.init:
        print(load_weights(detector, Path(config.init), accept_front_end=True))
    training = uuid.uuid4().hex[:12]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / rank.INITIAL
        facts = {"variant": config.variant, "training": training, "snapshot": snapshot.digest, "step": "0"}
        weights = save_detector(detector, path, facts)
        out.commit(rank.INITIAL, path.read_bytes())
    begun = Begun(
        id=training,
        settings=decisive_settings(config, recipe),
        snapshot=snapshot.name,
        snapshot_digest=snapshot.digest,
        initial_weights=weights,
    )
    out.commit("begun.json", json.dumps(asdict(begun), indent=1).encode())
    return begun


def check_settings(begun: Begun, config: TrainConfig, recipe: Recipe, snapshot: Snapshot) -> None:
    """Check that the command asks for the training that began here.

    Raises:
        InputError: a setting that decides the weights has changed, or the store is another one.
    """
    asked = tracking.flatten(decisive_settings(config, recipe))
    fixed = tracking.flatten(begun.settings)
    changed = [
        f"{name} was {fixed.get(name)} and is {asked.get(name)}"
        for name in sorted(asked.keys() | fixed.keys())
        if asked.get(name) != fixed.get(name)
    ]
    if snapshot.digest != begun.snapshot_digest:
        changed.append(f"snapshot {begun.snapshot} was {begun.snapshot_digest} and is {snapshot.digest}")
    if changed:
        raise InputError(
            f"{config.out} holds a training with other settings: {'; '.join(changed)}; choose another --out"
        )


def decisive_settings(config: TrainConfig, recipe: Recipe) -> dict[str, Any]:
    """The settings that decide the weights; the number of workers may change on the way."""
    settings = to_dict(config) | {"recipe": to_dict(recipe)}
    training: dict[str, Any] = settings["training"]
    training["optimiser"].pop("implementation")
    settings["training"] = {name: value for name, value in training.items() if name not in FREE}
    return {
        name: settings[name]
        for name in ("recipe", "corpora", "variant", "init", "augment", "batch", "training")
    }


@contextmanager
def track(config: TrainConfig, begun: Begun, recipe: Recipe, snapshot: Snapshot) -> Iterator[tracking.Run]:
    """One MLflow run for the life of the training, below the run of the ingest that made the snapshot."""
    uri, experiment = config.tracking_uri, config.experiment
    tags = {"bonafide.training": begun.id}
    data = {"bonafide.snapshot": snapshot.digest}
    parent = snapshot.run_id or tracking.find_run(uri, experiment, data | {"bonafide.job": "ingest"})
    with tracking.run(
        uri,
        experiment,
        job="train",
        name=f"train {Folder(config.out).uri.rpartition('/')[2]} ({config.variant})",
        parent_run_id=parent,
        run_id=tracking.find_run(uri, experiment, tags),
        tags=tags | data | {"bonafide.out": config.out, "bonafide.initial_weights": begun.initial_weights},
        config=to_dict(config) | {"snapshot": begun.snapshot, "recipe": to_dict(recipe)},
    ) as tracked:
        tracked.describe(registration.opening_note(config, begun, snapshot))
        tracked.log_text(to_toml(config), "config.toml")
        tracked.log_dataset(f"snapshot {snapshot.name}", snapshot.digest, config.store, "training")
        yield tracked


def publish(out: Folder, begun: Begun, run_id: str | None) -> dict[str, Any]:
    """Publish the weights with the best validation EER as `detector.safetensors`; then the training is done."""
    from pipeline.detector.checkpoint import load_detector

    last = checkpoints.saved_states(out.folder("checkpoints"))[-1]
    out.commit("detector.safetensors", out.read(checkpoints.weights_name(last.best_step)))
    with rank.local_copy(out, "detector.safetensors") as path:
        weights = load_detector(path).digest
    done = {
        "best_step": last.best_step,
        "best_eer": last.best_eer,
        "weights": weights,
        "num_steps": last.step,
        "run_id": run_id,
        **{name: value for name, value in asdict(begun).items() if name != "settings"},
    }
    out.commit("train.json", json.dumps(done, indent=1).encode())
    for file in list(out.find("weights")):
        out.delete(file.name)
    return done


if __name__ == "__main__":
    sys.exit(run(main))
