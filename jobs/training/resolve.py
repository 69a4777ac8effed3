"""Decide the settings, recipe and snapshot of a training once, for the driver and the workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.training.config import TrainConfig
from jobs.training.record import TrainingRecord
from pipeline.config import to_dict
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.store.snapshot import Snapshot, choose_corpora, only_named, only_roles
from pipeline.storage import Folder

RESUMABLE_CHANGES = frozenset(
    {
        # where data, results and metrics are
        *("store", "out", "snapshot", "tracking_uri", "experiment", "register"),
        # resources
        *("num_workers", "cpus_per_worker", "loader_workers", "device", "max_failures", "keep_checkpoints"),
        # already contained in batch, which must not change
        *("chunk_s", "find_batch_seconds"),
        # when it saves and logs
        *("training.checkpoint_every", "training.checkpoint_minutes", "training.log_every"),
        # how the same numbers are computed
        *("training.strategy", "training.activation_checkpointing", "training.compile"),
        *("training.optimiser.implementation", "training.peak_tflops"),
    }
)
"""Settings that may change when a training is resumed. All others decide the weights and must not change."""


@dataclass(frozen=True)
class ResolvedTraining:
    """A training with every setting decided; it is sent to every worker."""

    config: TrainConfig
    """`batch` contains the weights of the recipe, the chunk length and the batch size."""
    recipe: Recipe
    snapshot: Snapshot
    """Only the corpora that the training uses."""
    recordings: Snapshot
    """Only the corpora whose recordings augment it."""
    snapshot_digest: str
    """Digest of the whole snapshot, all corpora included."""

    @property
    def out(self) -> Folder:
        """RUN, see `jobs.training.folder`."""
        return Folder(self.config.out)

    @property
    def store(self) -> Folder:
        """Where the shards are."""
        return Folder(self.config.store)


def resolve(
    config: TrainConfig, record: TrainingRecord | None, recipe: Recipe, snapshot: Snapshot
) -> ResolvedTraining:
    """Decide every setting of a command. Pure.

    Args:
        config: settings as the user gave them.
        record: record of a training that has started; None for a new one.
        recipe: the recipe that the command names.
        snapshot: the snapshot that the command or the record names.

    Raises:
        InputError: the snapshot lacks the corpora, or the recordings of an augmentation.
    """
    chosen = _choose_corpora(snapshot, config, recipe)
    recordings = _choose_recordings(snapshot, config)
    config = replace(config, batch=resolve_batch(config, record, recipe, chosen.corpora))
    return ResolvedTraining(config, recipe, chosen, recordings, snapshot.digest)


def resolve_batch(
    config: TrainConfig, record: TrainingRecord | None, recipe: Recipe, corpora: Collection[str]
) -> BatchConfig:
    """Add the weights of the recipe, the chunk length and the batch size found at the start to `config.batch`."""
    # Weights of the command override those of the recipe.
    batch = replace(config.batch, weights=recipe.weights_of(corpora) | config.batch.weights)
    if config.chunk_s:
        batch = replace(batch, crop_min_s=config.chunk_s, crop_max_s=config.chunk_s)
    if config.find_batch_seconds and record is not None:
        batch = replace(batch, max_seconds=record.settings["batch"]["max_seconds"])
    return batch


def fixed_settings(training: ResolvedTraining) -> dict[str, Any]:
    """Everything that decides the weights, nested as in the config, with the content of the recipe."""
    settings = to_dict(training.config) | {"recipe": to_dict(training.recipe)}
    return _without_resumable(settings)


def _choose_corpora(snapshot: Snapshot, config: TrainConfig, recipe: Recipe) -> Snapshot:
    """The named corpora, or those of the recipe, or all training corpora."""
    if recipe.corpora and not config.corpora:
        available = [corpus for corpus in recipe.corpora if corpus in snapshot.corpora]
        return choose_corpora(snapshot, available or recipe.corpora)
    return choose_corpora(snapshot, config.corpora, role=None if config.corpora else "train")


def _choose_recordings(snapshot: Snapshot, config: TrainConfig) -> Snapshot:
    """The corpora that the augmentations draw from."""
    if not config.augment:
        return only_roles(snapshot, [])
    from pipeline.data.loading.augment.composition import sources_of  # scipy takes a moment to import
    from pipeline.data.loading.augment.library import check_sources

    sources = sources_of(config.augment)
    check_sources(snapshot, sources)
    names = {name for corpora, _ in sources for name in corpora}
    return only_named(snapshot, names) if names else only_roles(snapshot, [])


def _without_resumable(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without_resumable(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if f"{prefix}{name}" not in RESUMABLE_CHANGES
    }
