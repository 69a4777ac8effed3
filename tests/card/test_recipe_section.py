"""What a card says of a recipe: uses, label policy, weights, and the hours that come of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.card.page import corpus_card
from pipeline.card.recipe_section import recipe_parts, recipe_warnings, weight_of
from pipeline.card.tally import tally
from pipeline.data.corpora.recipe import Recipe, Use, load_recipe
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import BatchConfig, weight_table
from pipeline.data.store.snapshot import CorpusSnapshot, commit_snapshot, load_index
from pipeline.storage import Folder
from tests.card.stores import problems, snapshot_of, utterances, words_of, write_corpus

MIX = Recipe(
    name="mix",
    validation=("*/validation",),
    excluded=("*/test",),
    weights={"speech": 2.0, "vocoded/spoof": 0.5, "bonafide": 3.0},
    bonafide_artifacts=("codec",),
)


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "store"))


def speech_and_vocoded(store: Folder) -> list[CorpusSnapshot]:
    """An hour of speech to train with, ten minutes to validate and five for nothing; two of codecs, one of vocoders."""
    speech = [
        *utterances(12, "bonafide", seconds=300.0),
        *utterances(2, "bonafide", seconds=300.0, split="validation"),
        *utterances(1, "bonafide", seconds=300.0, split="test"),
    ]
    vocoded = [
        *utterances(24, "spoof", seconds=300.0, artifact="codec", split=None),
        *utterances(12, "spoof", seconds=300.0, artifact="vocoder"),
    ]
    evaluation = write_corpus(store, "wild", [utterances(12, "spoof", seconds=300.0)], role="evaluation")
    return [write_corpus(store, "speech", [speech]), write_corpus(store, "vocoded", [vocoded]), evaluation]


def test_every_hour_has_a_use_a_label_and_a_weight(store: Folder):
    snapshot = snapshot_of(*speech_and_vocoded(store))
    parts = recipe_parts(tally(store, snapshot), snapshot, MIX)
    assert {
        (part.corpus, part.split, part.artifact): (part.use, part.label, part.hours, part.weight)
        for part in parts
    } == {
        ("speech", "train", None): ("train", "bonafide", 1.0, 6.0),
        ("speech", "validation", None): ("validation", "bonafide", pytest.approx(1 / 6), 6.0),
        ("speech", "test", None): ("excluded", "bonafide", pytest.approx(1 / 12), 6.0),
        ("vocoded", None, "codec"): ("train", "bonafide", 2.0, 3.0),
        ("vocoded", "train", "vocoder"): ("train", "spoof", 1.0, 0.5),
    }


def test_the_card_shows_policy_uses_weights_and_hours(store: Folder):
    words = words_of(store, *speech_and_vocoded(store), recipe=MIX)
    assert "trains 4.00 h 25.0 % spoof validates 10.0 min 0.0 % spoof used for nothing 5.0 min" in words
    assert "drawn per epoch 12.5 h 4.0 % spoof corpora 2 1 others here" in words
    assert "spoofs of the families codec. All other artifacts are spoof." in words
    assert "speech train validation test 1.00 0.17 0.08" in words
    assert "vocoded train, not stated 3.00 – –" in words
    assert "speech 1.00 6 6.00 – – – 48.0 %" in words
    assert "vocoded 2.00 3 6.00 1.00 0.5 0.50 52.0 %" in words
    assert "codec bona fide 2.00 – –" in words
    assert "vocoder spoof 1.00 – –" in words


def test_hours_that_train_and_validate_are_those_that_a_training_would_load(store: Folder):
    snapshot = commit_snapshot(store, speech_and_vocoded(store)[:2])
    parts = recipe_parts(tally(store, snapshot), snapshot, MIX)
    uses: tuple[Use, ...] = ("train", "validation")
    for use in uses:
        index = load_index(store, snapshot, MIX, use)
        for code, label in enumerate(LABELS):
            hours = sum(part.hours for part in parts if (part.use, part.label) == (use, label))
            assert index.seconds[index.label == code].sum() / 3600 == pytest.approx(hours)


def test_weights_are_those_that_batches_are_drawn_with(store: Folder):
    snapshot = commit_snapshot(store, speech_and_vocoded(store)[:2])
    table = weight_table(load_index(store, snapshot, MIX, "train"), BatchConfig(weights=dict(MIX.weights)))
    assert table.tolist() == [
        [weight_of(MIX, corpus, label) for label in LABELS] for corpus in snapshot.corpora
    ]


def test_what_a_training_would_refuse_or_leak_is_warned_of(store: Folder):
    rows = [*utterances(2, "bonafide"), *utterances(2, "spoof", split="validation")]
    habla = write_corpus(store, "habla", [rows], found=problems(4, "excluded-test"))
    snapshot = snapshot_of(replace(habla, rejected={}, excluded={"excluded-test": 4}))
    recipe = Recipe(name="r", corpora=("habla", "mls"))
    parts = recipe_parts(tally(store, snapshot), snapshot, recipe)
    assert recipe_warnings(parts, snapshot, recipe) == [
        "There is no spoof speech here to train on.",
        "There is no bona fide speech here to validate with.",
        "The recipe names 1 corpora that are not here: mls.",
        "The recipe uses what the ingest left out: habla/test. Ingest without --recipe.",
        "Genuine speech of one origin both trains and validates: habla.",
    ]


def test_a_card_without_a_recipe_says_nothing_of_uses(store: Folder):
    snapshot = snapshot_of(*speech_and_vocoded(store))
    assert "drawn per epoch" not in corpus_card(store, snapshot).to_html()


def test_published_recipes_have_a_card(store: Folder):
    corpora = [write_corpus(store, name, [utterances(2, "bonafide")]) for name in ("fleurs", "habla", "mls")]
    words = words_of(store, *corpora, recipe=load_recipe("leakage_free"))
    assert "Recipe leakage_free" in words
    assert "corpora 3 of 29 0 others here" in words
