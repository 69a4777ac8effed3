"""The card's section about a recipe: uses, label policy, weights and the resulting hours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.card.domain_blocks import utterance_weight
from pipeline.card.page import corpus_card
from pipeline.card.recipe_section import recipe_parts, recipe_warnings
from pipeline.card.tally import tally_snapshot
from pipeline.data.corpora.domains import DomainRule
from pipeline.data.corpora.recipe import Recipe, Use, load_recipe
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import BatchConfig, weight_table
from pipeline.data.store.index import load_index
from pipeline.data.store.snapshot import CorpusSnapshot, commit_snapshot
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
    """Write three corpora.

    Under `MIX`, `speech` has 60 min for training, 10 min for validation and 5 min unused. `vocoded` has 2 h of codecs
    and 1 h of vocoders. `wild` is an evaluation corpus.
    """
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


def test_hours_are_split_by_use_label_and_weight(store: Folder):
    snapshot = snapshot_of(*speech_and_vocoded(store))
    parts = recipe_parts(tally_snapshot(store, snapshot), snapshot, MIX)
    assert {
        (part.corpus, part.split, part.artifact): (part.use, part.label, part.hours, part.weight)
        for part in parts
    } == {
        ("speech", "train", None): ("train", "bonafide", 1.0, 6.0),
        ("speech", "validation", None): ("validation", "bonafide", pytest.approx(1 / 6), 0.0),
        ("speech", "test", None): ("excluded", "bonafide", pytest.approx(1 / 12), 0.0),
        ("vocoded", None, "codec"): ("train", "bonafide", 2.0, 3.0),
        ("vocoded", "train", "vocoder"): ("train", "spoof", 1.0, 0.5),
    }


def test_the_card_shows_policy_uses_weights_and_hours(store: Folder):
    text = words_of(store, *speech_and_vocoded(store), recipe=MIX)
    assert "training 4.00 h 25.0 % spoof validation 10.0 min 0.0 % spoof unused 5.0 min" in text
    assert "drawn per epoch 12.5 h 4.0 % spoof corpora 2 1 others in the snapshot" in text
    assert "Artifact families that count as bona fide: codec; all other families count as spoof." in text
    assert "speech train validation test 1.00 0.17 0.08" in text
    assert "vocoded train, not stated 3.00 – –" in text
    assert "speech 1.00 6 6.00 – – – 48.0 %" in text
    assert "vocoded 2.00 3 6.00 1.00 0.5 0.50 52.0 %" in text
    assert "codec bona fide 2.00 – –" in text
    assert "vocoder spoof 1.00 – –" in text


def test_training_and_validation_hours_match_the_loaded_index(store: Folder):
    snapshot = commit_snapshot(store, speech_and_vocoded(store)[:2])
    parts = recipe_parts(tally_snapshot(store, snapshot), snapshot, MIX)
    uses: tuple[Use, ...] = ("train", "validation")
    for use in uses:
        index = load_index(store, snapshot, MIX, use)
        for code, label in enumerate(LABELS):
            hours = sum(part.hours for part in parts if (part.use, part.label) == (use, label))
            assert index.seconds[index.label == code].sum() / 3600 == pytest.approx(hours)


def test_weights_match_those_used_to_draw_batches(store: Folder):
    snapshot = commit_snapshot(store, speech_and_vocoded(store)[:2])
    corpora = load_index(store, snapshot, MIX, "train").corpora
    table = weight_table(corpora, BatchConfig(weights=dict(MIX.weights)))
    assert table.tolist() == [
        [utterance_weight(MIX, corpus, label) for label in LABELS] for corpus in snapshot.corpora
    ]


def test_the_card_shows_domains_and_their_effective_number_before_and_after_the_rule(store: Folder):
    known = [
        *utterances(12, "spoof", seconds=9.0, attack="x"),
        *utterances(4, "spoof", seconds=9.0, attack="y"),
    ]
    unknown = utterances(16, "spoof", seconds=9.0, artifact="vocoder")
    held_out = utterances(50, "spoof", seconds=9.0, attack="z", split="validation")
    corpora = [
        write_corpus(store, "small", [utterances(4, "bonafide", seconds=9.0)]),
        write_corpus(store, "large", [utterances(12, "bonafide", seconds=9.0)]),
        write_corpus(store, "faked", [known, unknown, held_out]),
    ]
    recipe = Recipe(name="r", domains=DomainRule(cap_hours=0.01, bonafide_ratio=1.0, max_repeats=4))
    text = words_of(store, *corpora, recipe=recipe)
    # Bona fide: 1 : 3, then 1 : 1. Spoof: 3 : 1 : 4, then 1 : 1 : 1.
    assert "effective number of bona fide domains 1.8 → 2.0 of 2, by hours → as drawn" in text
    assert "effective number of spoof domains 2.6 → 3.0 of 3, by hours → as drawn" in text
    assert "bona fide drawn per epoch 108 s after cropping" in text
    assert "large bona fide 0.0300 0.0150 0.5 50.0 %" in text
    assert "small bona fide 0.0100 0.0150 1.5 50.0 %" in text
    assert "faked/vocoder spoof 0.0400 0.0100 0.25 33.3 %" in text
    assert "faked/x spoof 0.0300 0.0100 0.333 33.3 %" in text
    assert "faked/y spoof 0.0100 0.0100 1 33.3 %" in text
    assert "faked – – – 0.0800 0.375 0.0300" in text  # the average weight of the corpus
    text = words_of(store, *corpora, recipe=replace(recipe, domains=DomainRule("attack", 0.01, 9.0, 4)))
    assert "bonafide_ratio 9 cannot be reached with max_repeats 4: it is 5.33." in text


def test_small_domains_are_summed_in_the_card(store: Folder):
    rows = [row for number in range(18) for row in utterances(18 - number, "spoof", attack=f"a{number:02}")]
    corpora = [write_corpus(store, "faked", [rows]), write_corpus(store, "real", [utterances(9, "bonafide")])]
    text = words_of(store, *corpora, recipe=Recipe(name="r"))
    assert "faked/a14 spoof" in text
    assert "faked/a15 spoof" not in text
    assert "3 others spoof" in text


def test_missing_labels_corpora_and_splits_and_leakage_cause_warnings(store: Folder):
    rows = [*utterances(2, "bonafide"), *utterances(2, "spoof", split="validation")]
    habla = write_corpus(store, "habla", [rows], found=problems(4, "excluded-test"))
    snapshot = snapshot_of(replace(habla, rejected={}, excluded={"excluded-test": 4}))
    recipe = Recipe(name="r", corpora=("habla", "mls"))
    parts = recipe_parts(tally_snapshot(store, snapshot), snapshot, recipe)
    assert recipe_warnings(parts, snapshot, recipe) == [
        "No spoof utterances for training.",
        "No bona fide utterances for validation.",
        "Corpora of the recipe that the snapshot lacks: mls.",
        "Splits that the recipe uses but the ingest excluded: habla/test. Ingest without --recipe.",
        "Bona fide speech of the same source is in training and validation: habla.",
    ]


def test_a_card_without_a_recipe_has_no_recipe_section(store: Folder):
    snapshot = snapshot_of(*speech_and_vocoded(store))
    assert "drawn per epoch" in corpus_card(store, snapshot, MIX).to_html()
    assert "drawn per epoch" not in corpus_card(store, snapshot).to_html()


def test_published_recipes_have_a_card(store: Folder):
    corpora = [write_corpus(store, name, [utterances(2, "bonafide")]) for name in ("fleurs", "habla", "mls")]
    text = words_of(store, *corpora, recipe=load_recipe("leakage_free"))
    assert "Recipe leakage_free" in text
    assert "corpora 3 of 29 0 others in the snapshot" in text
