"""What the page warns of, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline.tracing.concerns import concerns
from pipeline.tracing.results import Results, SystemCount, Verification
from tests.tracing.example import IDENTITY, example

SYSTEMS = ("bark", "fastpitch", "tacotron2", "vits", "your_tts")


def with_systems(*systems: SystemCount) -> Results:
    """Results whose gallery has other numbers."""
    return example(systems=[system.name for system in systems], changes={"systems": systems})


def sentence(results: Results, words: str) -> str:
    """The only concern with these words."""
    (found,) = [each for each in concerns(results) if words in each]
    return found


def with_corpora(results: Results, corpora: Sequence[str | None]) -> Results:
    """Give each new utterance a corpus."""
    traced = results.traced
    column = traced.rows.schema.get_field_index("corpus")
    rows = traced.rows.set_column(column, "corpus", pa.array(corpora, pa.string()))
    return replace(results, traced=replace(traced, rows=rows))


def test_a_large_gallery_without_confounding_raises_no_concern():
    assert concerns(example(systems=SYSTEMS)) == []


def test_a_layer_that_tells_corpora_is_named():
    found = sentence(example(systems=SYSTEMS, confounding=0.6), "tells the corpus")
    assert found.startswith("Layer 4 (centred) tells the corpus of bona fide speech by 0.60")


def test_confounding_that_was_not_measured_is_a_concern_only_with_several_corpora():
    results = example(systems=SYSTEMS, confounding=None)
    assert "could not be measured" in sentence(results, "bona fide speech of fewer than two corpora")
    single = [system._replace(corpora=["corpus_a"]) for system in results.systems]
    assert concerns(replace(results, systems=single)) == []


def test_systems_that_are_alone_or_of_one_speaker_or_small_are_named():
    systems = [SystemCount(name, 30, 5, ["corpus_a"], False) for name in SYSTEMS]
    systems[0] = SystemCount("bark", 30, 5, ["barks"], True)
    systems[1] = SystemCount("fastpitch", 30, 1, ["corpus_a"], False)
    systems[2] = SystemCount("tacotron2", 7, 5, ["corpus_a"], False)
    results = with_systems(*systems)
    assert "own: bark. Its recordings" in sentence(results, "Alone in a corpus")
    assert sentence(results, "Of a single speaker").startswith(
        "Of a single speaker or source file: fastpitch."
    )
    assert sentence(results, "fewer than 20 utterances").endswith(": tacotron2 (7).")
    systems[3] = SystemCount("vits", 30, 5, ["vits"], True)
    assert "bark, vits. Their recordings" in sentence(with_systems(*systems), "Each alone in a corpus")


def test_of_many_systems_the_first_are_named_and_the_others_counted():
    systems = [SystemCount(f"s{i}", 3, 2, ["corpus_a"], False) for i in range(9)]
    assert sentence(with_systems(*systems), "is rough").endswith("s4 (3) and 4 more.")


def test_utterances_without_speakers_make_the_rates_of_the_gallery_too_good():
    systems = [SystemCount(name, 30, 30, ["corpus_a"], False) for name in SYSTEMS]
    assert "too good" in sentence(with_systems(*systems), "No two utterances")


def test_shared_speakers_are_counted():
    results = example(systems=SYSTEMS)
    assert "4 speakers or source files are in" in sentence(replace(results, num_shared_clusters=4), "Voices")
    assert "1 speaker or source file is in" in sentence(replace(results, num_shared_clusters=1), "Voices")


def test_without_a_calibration_the_reason_is_given():
    found = sentence(example(systems=SYSTEMS, is_calibrated=False), "No utterance is called unknown")
    assert "leaving a system out leaves none. Each is" in found


def test_few_systems_make_the_threshold_rough():
    assert "has 2 systems" in sentence(example(systems=SYSTEMS[:2]), "is rough")


def test_known_and_unknown_systems_of_different_corpora_are_a_concern():
    results = example(systems=SYSTEMS, unknown=["xtts"], num_of_each=4, num_bonafide=1)
    apart = with_corpora(results, ["corpus_b"] * 20 + ["elsewhere"] * 4 + ["corpus_b"])
    assert "from corpus_b, those of unknown ones from elsewhere" in sentence(apart, "Another corpus may be")
    mixed = with_corpora(results, ["corpus_b"] * 20 + ["elsewhere"] * 3 + ["corpus_b"] * 2)
    assert concerns(mixed) == []
    assert concerns(with_corpora(results, [None] * 25)) == []


def test_training_corpora_limited_embeddings_and_rejects_are_named():
    embeddings = {"layers": ["4"], "per_group": 50}
    changed = IDENTITY | {
        "training_corpora": ["corpus_a", "other"],
        "embeddings": embeddings,
        "num_rejected": 3,
    }
    results = example(systems=SYSTEMS, changes={"gallery": changed, "new": changed})
    assert "corpora of the gallery: corpus_a. It may" in sentence(results, "trained on")
    assert sentence(results, "At most 50").startswith("At most 50 new utterances of each corpus")
    assert sentence(results, "of /scores/new could not be scored").startswith("3 utterances")
    same = replace(results, new_location=results.gallery_location)
    assert sentence(same, "could not be scored").startswith("3 utterances of /scores/all")


def test_trials_without_a_score_are_counted():
    verification = Verification("trials.csv", pa.table({"score": [0.5, None, 0.1]}), [], 1, 2)
    results = replace(example(systems=SYSTEMS), verification=verification)
    assert sentence(results, "1 of 3 trials have no score")
    assert sentence(results, "2 of 3 trials have an utterance in both sets")


def test_files_of_a_protocol_that_are_not_found_are_counted():
    results = replace(example(systems=SYSTEMS), num_missing=3)
    assert sentence(results, "of the protocol").startswith("3 files of the protocol have no embedding")
