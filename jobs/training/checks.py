"""Checks before a training asks for a cluster: its data, its recipe, and, on resume, its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.training.config import TrainConfig
from jobs.training.record import TrainingRecord
from jobs.training.resolve import ResolvedTraining, fixed_settings
from pipeline.data.corpora.domains import DOMAIN_COLUMNS, Domain, DomainRule, balance_domains, domain_of
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import EXCLUDED, Recipe, Use, find_leakage, load_recipe
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import BatchConfig, domain_weights, expected_seconds, weight_table
from pipeline.data.store.shard_tables import map_indexes
from pipeline.data.store.snapshot import (
    Snapshot,
    load_regions,
    load_utterances,
    only_named,
    snapshot_shards,
)
from pipeline.errors import InputError
from pipeline.metrics.grouped import Selection
from pipeline.storage import Folder

COUNT_COLUMNS = [*DOMAIN_COLUMNS, "split"]
"""What decides the use of an utterance, its label and its domain."""

CHUNK_TOLERANCE_S = 0.05
"""How far resampling may move the length of a chunk."""


def choose_recipe(config: TrainConfig) -> Recipe:
    """Load the recipe that the command names; by default that of AntiDeepfake, for every corpus of the store.

    Raises:
        InputError: the recipe does not exist, is malformed, or lacks a corpus that the command names.
    """
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    unknown = sorted(set(config.corpora) - set(recipe.corpora)) if recipe.corpora else []
    if unknown:
        raise InputError(f"recipe {recipe.name} has no {', '.join(unknown)}; leave it out of --corpora")
    return recipe


def check_resume(training: ResolvedTraining, record: TrainingRecord) -> None:
    """Check that the command describes the training that started in its folder.

    Raises:
        InputError: a setting that decides the weights has changed, or the snapshot has.
    """
    asked, recorded = (dict(_flat(settings)) for settings in (fixed_settings(training), record.settings))
    changed = [
        name
        for name in sorted(asked.keys() | recorded.keys())
        if asked.get(name) != recorded.get(name)  # JSON has null for what is not set
    ]
    changes = [
        f"{name} was {_show(recorded, name)} and is {_show(asked, name)}"
        for name in changed
        if not any(name.startswith(f"{table}[") for table in changed)  # other tables have other settings
    ]
    if training.snapshot_digest != record.snapshot_digest:
        changes.append(
            f"snapshot {record.snapshot} was {record.snapshot_digest} and is {training.snapshot_digest}"
        )
    if changes:
        raise InputError(
            f"{training.out.uri} holds a training with other settings: {'; '.join(changes)}; "
            "choose another --out"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings; an array of tables is a list of their names, and their settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{prefix}{name}", [item.get("name") or list(item)[-1] for item in value]
            for number, item in enumerate(value, 1):
                yield from _flat(item, f"{prefix}{name}[{number}].")
        else:
            yield f"{prefix}{name}", value


def _show(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    if value is None:
        return "not set"
    return (", ".join(map(str, value)) or "empty") if isinstance(value, list) else str(value)


def check_data(training: ResolvedTraining) -> None:
    """Refuse data that cannot be trained on; print which corpora of the recipe the snapshot lacks, and leakage.

    Raises:
        InputError: the training or the validation data lack a class, an excluded split is needed, chunks are shorter
            than the crop, a weight names no corpus, the weights leave nothing of a class, or an augmentation would
            contradict the labels.
    """
    config, recipe, snapshot = training.config, training.recipe, training.snapshot
    weight_table(list(snapshot.corpora), config.batch)  # before the utterances are read: checks the names
    check_exclusions(recipe, snapshot)
    if config.augment:
        from pipeline.data.loading.augment.composition import check_labels  # scipy takes a moment to import

        check_labels(config.augment, recipe.bonafide_artifacts)
    if config.training.loss.frame_weight:
        check_frames(training)
    table = count_utterances(training.store, snapshot, config.batch)
    check_chunks(config, table)
    purposes: tuple[tuple[Use, str], ...] = (("train", "train on"), ("validation", "validate with"))
    for use, purpose in purposes:
        chosen = recipe.relabel(table.filter(pa.array(recipe.mask(table, use))))
        missing = " and no ".join(sorted(set(LABELS) - set(pc.unique(chosen["label"]).to_pylist())))
        if missing:
            raise InputError(
                f"snapshot {snapshot.name} has no {missing} utterances to {purpose} in "
                f"{', '.join(snapshot.corpora)}; ingest or name more corpora"
            )
        if use == "train":
            check_weights(config.batch, recipe.domains, list(snapshot.corpora), chosen)
        else:
            check_selection(config.training.select_by, chosen)
    if config.recipe:
        for line in describe_recipe(config, recipe, table):
            print(line, flush=True)


def count_utterances(store: Folder, snapshot: Snapshot, batch: BatchConfig) -> pa.Table:
    """Count the utterances of each shard by all that a recipe looks at.

    Returns:
        `COUNT_COLUMNS`, then seconds (the longest), expected_s (the sum after cropping) and num_utterances.
    """

    def count(index: pa.Table) -> pa.Table:
        expected = expected_seconds(index["seconds"].to_numpy(), batch).astype(np.float64)
        groups = index.append_column("expected_s", pa.array(expected)).group_by(COUNT_COLUMNS)
        counts = groups.aggregate([("seconds", "max"), ("expected_s", "sum"), ([], "count_all")])
        aggregates = counts.select(["seconds_max", "expected_s_sum", "count_all"])
        return pa.table(
            [*counts.select(COUNT_COLUMNS).columns, *aggregates.columns],
            names=[*COUNT_COLUMNS, "seconds", "expected_s", "num_utterances"],
        )

    shards = snapshot_shards(snapshot)
    if not shards:
        raise InputError(f"snapshot {snapshot.name} of {store.uri} has no shards")
    return pa.concat_tables(map_indexes(count, store, shards, [*COUNT_COLUMNS, "seconds"]))


def check_selection(select_by: Selection, table: pa.Table) -> None:
    """Refuse a mean over corpora if no corpus has an EER.

    Args:
        select_by: the error rate that decides which weights are the best.
        table: the utterances to validate with, with the columns corpus and label.

    Raises:
        InputError: no corpus has both classes.
    """
    pairs = table.group_by(["corpus", "label"]).aggregate([])
    num_classes = Counter(pairs["corpus"].to_pylist())
    if select_by == "corpora" and max(num_classes.values()) < len(LABELS):
        raise InputError(
            "--training.select-by corpora: no corpus has both bona fide and spoof utterances to validate with; "
            "select by pooled or attacks, or add such a corpus"
        )


def check_weights(batch: BatchConfig, rule: DomainRule, corpora: Sequence[str], table: pa.Table) -> None:
    """Refuse weights with which an epoch draws less than one utterance of a label.

    Args:
        batch: has the weights of the recipe, too.
        rule: balances the domains.
        corpora: all corpora of the training.
        table: the utterances to train on, from `count_utterances`.

    Raises:
        InputError: a label is hardly ever drawn, or a weight names no corpus.
    """
    hours: Counter[Domain] = Counter()  # adds floats as well as counts
    counts: Counter[Domain] = Counter()
    for row in table.to_pylist():
        domain = domain_of(rule.by, *(row[name] for name in DOMAIN_COLUMNS))
        hours[domain] += row["expected_s"] / 3600
        counts[domain] += row["num_utterances"]
    domains = tuple(sorted(hours))
    amounts = np.array([hours[domain] for domain in domains], np.float64)
    draws = balance_domains(domains, amounts, domain_weights(domains, corpora, batch), rule)
    drawn: Counter[str] = Counter()
    for domain, weight in zip(domains, draws.weights.tolist(), strict=True):
        drawn[domain.label] += counts[domain] * weight
    for label in LABELS:
        if drawn[label] < 1:
            raise InputError(
                f"the weights leave {drawn[label]:.2g} {label} utterances per epoch; "
                f"raise those in --batch.weights or in the recipe that match {label}, or cap_hours of its domains"
            )


def check_frames(training: ResolvedTraining) -> None:
    """Refuse a loss of frames without labelled frames, and one that an augmentation would contradict.

    Raises:
        InputError: as described.
    """
    config, snapshot, recipe = training.config, training.snapshot, training.recipe
    if config.augment:
        # Here, because scipy takes a moment to import.
        from pipeline.data.loading.augment.composition import check_frame_labels

        check_frame_labels(config.augment, recipe.bonafide_artifacts)
    named = f"of {', '.join(snapshot.corpora)}"
    if not _region_labels(training, "train"):
        raise InputError(
            f"--training.loss.frame-weight: no training utterance {named} has regions; name a corpus that has them "
            "(docs/partial.md), or leave the weight out"
        )
    if config.training.select_by == "frames":
        missing = sorted(set(LABELS) - _region_labels(training, "validation"))
        if missing:
            raise InputError(
                f"--training.select-by frames: no validation utterance {named} has regions of "
                f"{' or '.join(missing)}; select by pooled, or name a corpus that has them"
            )


def _region_labels(training: ResolvedTraining, use: Use) -> set[str]:
    """The labels of the regions of the utterances that have a use; those of bona fide utterances are bona fide."""
    snapshot, recipe = training.snapshot, training.recipe
    corpora = [corpus.name for corpus in snapshot.corpora.values() if corpus.regions]
    if not corpora:
        return set()
    regions = load_regions(training.store, snapshot)
    table = load_utterances(training.store, only_named(snapshot, corpora), [*COUNT_COLUMNS, "uid"])
    chosen = recipe.relabel(table.filter(pa.array(recipe.mask(table, use))))
    labels: set[str] = set()
    for label in LABELS:
        uids = chosen.filter(pc.equal(chosen["label"], label))["uid"].combine_chunks()
        found = set(regions.filter(pc.is_in(regions["uid"], uids))["label"].to_pylist()) & set(LABELS)
        labels |= {label} if found and label == "bonafide" else found
    return labels


def check_exclusions(recipe: Recipe, snapshot: Snapshot) -> None:
    """Refuse a snapshot from which the ingest excluded a split that this recipe uses."""
    for name, corpus in snapshot.corpora.items():
        for reason in corpus.excluded:
            split = reason.removeprefix(EXCLUDED)
            if recipe.use(name, split) != "excluded":
                needed_by = f"recipe {recipe.name}" if recipe.name else "the training"
                raise InputError(
                    f"{needed_by} needs {name}/{split}, which the ingest of snapshot {snapshot.name} excluded; "
                    f"ingest {name} again without --recipe"
                )


def check_chunks(config: TrainConfig, table: pa.Table) -> None:
    """Refuse a crop that is longer than the chunks into which the ingest cut a corpus."""
    manifests = load_manifests()
    longest = table.group_by("corpus").aggregate([("seconds", "max")])
    for corpus, seconds in zip(
        longest["corpus"].to_pylist(), longest["seconds_max"].to_pylist(), strict=True
    ):
        chunks = manifests[corpus].chunks if corpus in manifests else None
        for length in {chunks.seconds, *chunks.choices} if chunks else ():
            if abs(length - seconds) < CHUNK_TOLERANCE_S and length < config.chunk_s:
                raise InputError(
                    f"{corpus} is stored in chunks of {length:g} s; "
                    f"ingest it again with --chunk-s {config.chunk_s:g}"
                )


def describe_recipe(config: TrainConfig, recipe: Recipe, table: pa.Table) -> list[str]:
    """Lines about corpora of a recipe that are missing, and about sources that both train and validate."""
    parts = table.group_by(["corpus", "split"]).aggregate([])
    pairs = list(zip(parts["corpus"].to_pylist(), parts["split"].to_pylist(), strict=True))
    lines = []
    available = {corpus for corpus, _ in pairs}
    missing = [name for name in config.corpora or recipe.corpora if name not in available]
    if missing:
        lines.append(f"recipe {recipe.name}: the snapshot has no {', '.join(missing)}")
    leakage = find_leakage(recipe, pairs, load_manifests())
    if leakage.sources:
        lines.append(
            f"recipe {recipe.name}: bona fide speech from {', '.join(leakage.sources)} both trains and validates"
        )
    else:
        lines.append(f"recipe {recipe.name}: no source of bona fide speech both trains and validates")
    if leakage.unknown:
        lines.append(f"recipe {recipe.name}: the sources of {', '.join(leakage.unknown)} are unknown")
    return lines
