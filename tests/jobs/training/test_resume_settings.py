"""Settings of a training: what may change when it resumes, and which weights, crops and corpora suit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from jobs.training.checks import (
    check_chunks,
    check_resume,
    check_selection,
    check_weights,
)
from jobs.training.config import TrainConfig
from jobs.training.record import TrainingRecord
from jobs.training.resolve import RESUMABLE_CHANGES, ResolvedTraining, fixed_settings, resolve
from pipeline.data.corpora.domains import DomainRule
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.loading.augment.channel import Gain
from pipeline.data.loading.augment.composition import read_steps
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.errors import InputError


def corpus(name: str) -> CorpusSnapshot:
    return CorpusSnapshot(
        name=name,
        role="train",
        licence="unknown",
        non_commercial=None,
        manifest="",
        catalog="",
        found=0,
        rejected={},
        excluded={},
        expected_hours={},
    )


SNAPSHOT = Snapshot(
    1, "2026-01-01T00:00:00+00:00", {name: corpus(name) for name in ("decro", "in_store", "vocoded")}
)


def resolved(asked: TrainConfig, recipe: Recipe | None = None) -> ResolvedTraining:
    return resolve(asked, None, recipe or Recipe(), SNAPSHOT)


def recorded(training: ResolvedTraining) -> TrainingRecord:
    return TrainingRecord("id", fixed_settings(training), SNAPSHOT.name, SNAPSHOT.digest, "weights")


BASIC = TrainConfig(store="store", out="out")


def setting_names(value: object, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings, nested ones included."""
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from setting_names(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def flat_names(settings: dict[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict) and name != "weights":
            yield from flat_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_setting_is_fixed_unless_it_is_listed_as_resumable() -> None:
    names = set(setting_names(BASIC))
    assert names >= RESUMABLE_CHANGES
    fixed = {name for name in flat_names(fixed_settings(resolved(BASIC))) if not name.startswith("recipe.")}
    assert fixed == names - RESUMABLE_CHANGES - {"recipe"}


@pytest.mark.parametrize(
    "change",
    [
        {"num_workers": (2, 4)},
        {"store": "elsewhere"},
        {"device": "cuda"},
        {"training": replace(BASIC.training, checkpoint_minutes=5.0, log_every=7)},
        {"training": replace(BASIC.training, compile=True, strategy="fsdp")},
    ],
)
def test_resources_and_how_the_same_numbers_are_computed_may_change(change: dict[str, object]) -> None:
    later = replace(BASIC, **change)  # type: ignore[arg-type]
    check_resume(resolved(later), recorded(resolved(BASIC)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "xlsr.pt"}, "init was .* and is xlsr.pt"),
        ({"augment": (Gain(),)}, "augment was empty and is gain; choose"),
        ({"batch": replace(BASIC.batch, seed=7)}, r"batch\.seed was 1234 and is 7"),
        (
            {"training": replace(BASIC.training, precision="fp32")},
            r"training\.precision was bf16 and is fp32",
        ),
        (
            {"batch": replace(BASIC.batch, weights={"spoof": 2.0})},
            r"batch\.weights\.spoof was not set and is 2",
        ),
    ],
)
def test_a_setting_that_decides_the_weights_may_not_change(change: dict[str, object], message: str) -> None:
    later = replace(BASIC, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        check_resume(resolved(later), recorded(resolved(BASIC)))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "augment was gain, one_of and is empty; choose"),
        (["gain"], "augment was gain, one_of and is gain; choose"),
        (
            [{"name": "gain", "gain_db": [0, 6]}, {"one_of": ["colour", "clipping"]}],
            r"augment\[1\]\.gain_db was -20\.0, 6\.0 and is 0\.0, 6\.0; choose",
        ),
        (
            ["gain", {"one_of": ["colour", "speed"]}],
            r"augment\[2\]\.one_of was colour, clipping and is colour, speed; ",
        ),
    ],
)
def test_augmentations_and_their_settings_may_not_change(steps: list[Any], message: str) -> None:
    before = replace(BASIC, augment=read_steps(["gain", {"one_of": ["colour", "clipping"]}]))
    check_resume(resolved(before), recorded(resolved(before)))
    with pytest.raises(InputError, match=message):
        check_resume(resolved(replace(before, augment=read_steps(steps))), recorded(resolved(before)))


def test_another_recipe_or_snapshot_is_another_training() -> None:
    check_resume(resolved(BASIC), recorded(resolved(BASIC)))
    other = replace(load_recipe("copy_synthesis_bonafide"), corpora=())
    with pytest.raises(InputError, match=r"recipe\.bonafide_artifacts was .* and is vocoder, codec"):
        check_resume(resolved(BASIC, other), recorded(resolved(BASIC)))
    balanced = Recipe(domains=DomainRule(cap_hours=5.0))
    with pytest.raises(InputError, match=r"recipe\.domains\.cap_hours was not set and is 5\.0; choose"):
        check_resume(resolved(BASIC, balanced), recorded(resolved(BASIC)))
    with pytest.raises(InputError, match="snapshot 000001 was another and is"):
        check_resume(resolved(BASIC), replace(recorded(resolved(BASIC)), snapshot_digest="another"))


def test_a_recipe_weights_only_corpora_that_exist_and_the_command_overrides_it() -> None:
    recipe = Recipe(corpora=("mls", "decro"), weights={"mls": 0.1, "spoof": 2.0, "bonafide": 3.0})
    asked = replace(BASIC, batch=BatchConfig(weights={"spoof": 4.0}))
    assert resolved(asked, recipe).config.batch.weights == {"spoof": 4.0, "bonafide": 3.0}


def test_a_resumed_training_keeps_the_batch_size_that_was_found() -> None:
    asked = replace(BASIC, find_batch_seconds=True)
    started = resolved(replace(asked, batch=replace(asked.batch, max_seconds=77.0)))
    assert resolve(asked, recorded(started), Recipe(), SNAPSHOT).config.batch.max_seconds == 77.0


def test_a_crop_longer_than_the_stored_chunks_is_refused() -> None:
    table = pa.table({"corpus": ["ljspeech", *["deepfake_eval_2024"] * 2], "seconds": [9.0, 12.999, 3.0]})
    asked = replace(BASIC, chunk_s=13.0)
    check_chunks(asked, table)
    with pytest.raises(InputError, match=r"deepfake_eval_2024 is stored in chunks of 13 s; .* --chunk-s 50"):
        check_chunks(replace(asked, chunk_s=50.0), table)


def test_weights_that_draw_less_than_one_utterance_of_a_label_are_refused() -> None:
    labels = {"a": ["spoof"] * 10 + ["bonafide"] * 10, "b": ["spoof"] * 5}
    rows = [
        {"corpus": corpus, "label": label, "expected_s": 36.0, "num_utterances": 1}
        for corpus, each in labels.items()
        for label in each
    ]
    unknown = pa.nulls(len(rows), pa.string())
    table = pa.Table.from_pylist(rows)
    for name in ("artifact", "attack", "language"):
        table = table.append_column(name, unknown)
    for weights in ({"spoof": 0.1}, {"b": 0.0}, {"a/spoof": 0.0}, {"a/spoof": 0.0, "b": 0.2}):
        check_weights(BatchConfig(weights=weights), DomainRule(), ["a", "b"], table)
    for weights, number in (
        ({"spoof": 0.0}, "0 spoof"),
        ({"a": 0.0}, "0 bonafide"),
        ({"a/spoof": 0.0, "b": 0.1}, "0.5 spoof"),
        ({"a/spoof": 0.0, "b/spoof": 1e-9}, "5e-09 spoof"),
    ):
        with pytest.raises(InputError, match=f"the weights leave {number} utterances per epoch; raise those"):
            check_weights(BatchConfig(weights=weights), DomainRule(), ["a", "b"], table)
    capped = DomainRule(cap_hours=0.005)  # half an utterance of each domain
    with pytest.raises(InputError, match=r"the weights leave 0\.5 bonafide utterances per epoch"):
        check_weights(BatchConfig(), capped, ["a", "b"], table)
    check_weights(BatchConfig(), replace(capped, bonafide_ratio=2.0), ["a", "b"], table)


def test_a_mean_over_corpora_needs_a_corpus_with_both_classes() -> None:
    rows = [("a", "bonafide"), ("b", "spoof"), ("b", "spoof")]
    table = pa.Table.from_pylist([{"corpus": corpus, "label": label} for corpus, label in rows])
    for select_by in ("pooled", "attacks"):
        check_selection(select_by, table)
    with pytest.raises(InputError, match=r"^--training.select-by corpora: no corpus has both .*; select by"):
        check_selection("corpora", table)
    check_selection("corpora", pa.concat_tables([table, table.slice(0, 1).set_column(0, "corpus", [["b"]])]))
