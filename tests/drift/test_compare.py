"""Drift of simulated samples: how often there is an alarm without any, and with some."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.drift.compare import compare
from pipeline.drift.page import headline, to_page
from pipeline.drift.reference import fit
from pipeline.drift.results import Results, Settings
from pipeline.drift.sample import Sample
from pipeline.errors import InputError
from pipeline.evaluation.utterances import ClusterKind
from tests.drift.simulated import simulate

FAST = Settings(num_permutations=99, alarm=0.05)
SHARP = Settings(num_permutations=499)


def drift(
    reference: Sample, new: Sample, settings: Settings = FAST, clusters: ClusterKind = "auto"
) -> Results:
    fitted = fit(reference, reference.rows, 20_000, clusters)
    return compare(fitted, new, new.rows, settings)


def rate(num_splits: int = 20, clusters: ClusterKind = "auto", **arguments: Any) -> float:
    """The share of pairs of samples of one distribution whose p is below 0.05."""
    p_values = [
        drift(
            simulate(2 * i, is_labelled=False, **arguments),
            simulate(2 * i + 1, is_labelled=False, **arguments),
            clusters=clusters,
        ).test.p_value
        for i in range(num_splits)
    ]
    return float(np.mean(np.array(p_values) < 0.05))


def test_samples_of_one_distribution_rarely_differ():
    assert rate(num=100) <= 0.15


def test_principal_components_of_few_utterances_find_no_drift():
    assert rate(num=120, width=128) <= 0.15


def test_permuting_speakers_finds_no_drift_where_permuting_utterances_does():
    arguments: dict[str, Any] = {"num": 150, "num_speakers": 15, "num_splits": 12}
    assert rate(**arguments) <= 0.2
    assert rate(clusters="utterance", **arguments) > 0.5


def test_halves_of_the_recordings_of_few_speakers_do_not_differ_however_they_are_divided():
    whole = simulate(0, 600, num_speakers=3, speaker_spread=2.0, share_of_spoof=0)
    is_old = whole.hashes % 2 == 0
    for clusters in ("auto", "utterance"):
        results = drift(whole.take(is_old), whole.take(~is_old), SHARP, clusters)
        assert results.test.p_value > 0.01
        assert all((group.p_value or 1) > 0.01 for group in results.groups)


def test_speakers_of_both_sides_are_compared_with_themselves():
    arguments: dict[str, Any] = {"num_speakers": 20, "speaker_seed": 9}
    assert rate(num_splits=12, num=150, **arguments) <= 0.2
    arguments["share_of_spoof"] = 0
    results = drift(simulate(0, **arguments), simulate(1, shift=0.3, **arguments), SHARP)
    assert results.is_alarm
    arguments["speaker_seed"] = None
    assert not drift(simulate(0, **arguments), simulate(1, shift=0.3, **arguments), SHARP).is_alarm


def test_clusters_of_different_sizes_find_no_drift():
    p_values = [
        drift(
            simulate(2 * i, 600, num_speakers=100, speaker_spread=0.2, is_labelled=False),
            simulate(2 * i + 1, 40, num_speakers=400, speaker_spread=0.2, is_labelled=False),
        ).test.p_value
        for i in range(20)
    ]
    assert np.mean(np.array(p_values) < 0.05) <= 0.15


def test_a_small_shift_of_a_few_components_is_found():
    for seed in (0, 2):
        new = simulate(seed + 1, 300, width=32, shift=0.5, num_shifted=6)
        results = drift(simulate(seed, 500, width=32), new, SHARP)
        assert results.is_alarm and results.test.p_value <= 0.01
        assert set(results.test.alarms) == {"bonafide", "spoof"}


def test_a_change_of_the_class_mix_is_reported_and_is_no_drift():
    results = drift(simulate(0, 400), simulate(1, 300, share_of_spoof=0.9), SHARP)
    assert not results.is_alarm
    assert results.are_labelled
    (sentence,) = [each for each in results.warnings if "class mix" in each]
    assert sentence.startswith("The class mix has changed: ") and "not counted as drift" in sentence


def test_without_labels_all_utterances_are_compared_and_the_mix_looks_like_drift():
    results = drift(simulate(0, 300), simulate(1, 200, share_of_spoof=0.9, is_labelled=False), SHARP)
    assert results.is_alarm
    assert [part.name for part in results.parts] == ["all utterances"]
    assert "cannot be told from it" in results.warnings[0]


def test_another_level_is_named_and_raises_no_alarm_by_itself():
    results = drift(simulate(0, 400), simulate(1, 400, level=-32), SHARP)
    assert not results.is_alarm
    assert {(part.label, each.subject) for part, each in results.recording_changes} == {
        ("bonafide", "level_dbfs"),
        ("spoof", "level_dbfs"),
    }
    html = to_page(results).to_html()
    assert "The level of bona fide has changed: the median was -2" in html
    assert "do not take this for a new generator" in html


def test_scores_alone_are_compared_by_their_distribution():
    results = drift(simulate(0, layer=""), simulate(1, layer="", shift=1.0), SHARP)
    assert (results.test.subject, results.test.measure) == ("score", "ks")
    assert results.is_alarm and not results.groups
    assert "Kolmogorov–Smirnov of the score" in headline(results)
    assert not drift(simulate(0, layer=""), simulate(1, layer=""), SHARP).is_alarm


def test_a_change_that_is_too_small_to_matter_raises_no_alarm():
    new = simulate(1, shift=0.5)
    assert drift(simulate(0), new, SHARP).is_alarm
    results = drift(simulate(0), new, replace(SHARP, min_effect=2))
    assert not results.is_alarm
    assert "but no effect that counts" in headline(results)


def test_an_unknown_attack_is_farther_than_known_ones():
    known = ("tts", "vocoder")
    shifts = {"vocoder": 2.0, "conversion": 6.0}
    reference = simulate(0, 600, attacks=known, attack_shifts=shifts)
    new = simulate(1, 600, attacks=(*known, "conversion"), attack_shifts=shifts)
    groups = drift(reference, new, SHARP).groups
    assert groups[0].name == "calls · spoof · conversion"
    assert groups[0].p_value is not None and groups[0].p_value <= 0.01
    assert {group.name: group.nearest for group in groups[1:]} == {
        name: name for name in ("calls · bona fide", "calls · spoof · tts", "calls · spoof · vocoder")
    }
    assert all(group.p_value is not None and group.p_value > 0.01 for group in groups[1:])
    spoof = next(group for group in groups if group.name.endswith("tts"))
    assert spoof.to_spoof is not None and spoof.to_bonafide is not None
    assert spoof.to_spoof < spoof.to_bonafide


def test_frechet_needs_more_utterances_than_components():
    results = drift(simulate(0, 400, width=64, share_of_spoof=0), simulate(1, 60, width=64, share_of_spoof=0))
    (part, _) = results.parts
    assert part.find("embedding", "frechet") is None and part.find("embedding", "mmd2") is not None
    assert part.omitted == ["Fréchet: not enough utterances, at least 65 of each side are needed"]


def test_too_few_utterances_are_an_error_and_a_missing_class_is_not():
    reference = simulate(0, 200)
    with pytest.raises(InputError, match="cannot be compared with the reference: bona fide: not enough"):
        drift(reference, simulate(1, 15))
    results = drift(reference, simulate(1, 100, share_of_spoof=1))
    assert [part.problem for part in results.parts] == ["not enough utterances: there are no new ones", ""]
    assert "Nothing is said about bona fide" in " ".join(results.warnings)


def test_few_speakers_cannot_raise_the_alarm_and_the_report_says_so():
    new = simulate(1, 200, num_speakers=2, share_of_spoof=0)
    results = drift(simulate(0, 400, num_speakers=6, share_of_spoof=0), new, SHARP)
    assert any("p cannot be below" in sentence for sentence in results.warnings)


def test_concerns_name_shared_utterances_missing_embeddings_and_another_decoder():
    reference = simulate(0, 300)
    new = reference.take(np.arange(200))
    rows = reference.rows
    fitted = fit(reference, rows, 20_000, "auto")
    changed = Sample(
        new.system,
        new.location,
        {**new.identity, "decoder": "soxr", "num_rejected": 3},
        new.rows,
        new.vectors,
        "head",
    )
    sentences = " ".join(compare(fitted, changed, rows, FAST).warnings)
    assert "are in the reference and new" in sentences
    assert "Only 200 of 300 of the new utterances have an embedding" in sentences
    assert "differ in the audio decoder and resampler: – and soxr" in sentences
    assert "3 new utterances could not be scored" in sentences


def test_the_results_depend_on_the_seed_alone():
    pair = simulate(0, 200), simulate(1, 200)
    one, same, other = (drift(*pair, replace(FAST, seed=seed)) for seed in (0, 0, 1))
    assert one.parts[0].distances == same.parts[0].distances != other.parts[0].distances
    assert to_page(one).to_html() == to_page(same).to_html()
