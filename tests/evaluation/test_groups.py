"""Groups of utterances: which there are, what they are measured on, and which differ from their corpus."""

import numpy as np
import pytest

from pipeline.evaluation.columns import NOT_STATED, encode_durations
from pipeline.evaluation.measure import MEAN, POOLED, Settings, false_discovery_control
from pipeline.evaluation.page import to_page
from pipeline.metrics import equal_error_rate
from pipeline.metrics.bootstrap import ALL
from tests.evaluation.simulated import results_of, write_system


def test_every_column_that_varies_is_a_group(tmp_path):
    results = results_of(write_system(tmp_path / "a"))
    assert results.keys("alpha", "attack") == ["A00", "A01", "A02", "A03"]
    assert results.keys("alpha", "language") == ["de", "en"]
    assert results.keys("alpha", "seconds") == ["0–2 s", "2–4 s", "4–8 s", "8–16 s", "16 s and more"]
    assert results.keys("alpha", "sample_rate") == ["8,000 Hz", "44,100 Hz"]
    assert results.keys("alpha", "split") == ["test"]
    assert (
        results.measurements["tiny", "alpha", "split", "test"].metrics["eer"]
        == (results.measurements["tiny", "alpha", "all", "all"].metrics["eer"])
    )
    html = to_page(results).to_html()
    assert "alpha has only one artifact (tts), one split (test)." in html


def test_a_small_group_has_counts_only(tmp_path):
    results = results_of(write_system(tmp_path / "a"))
    mp3 = results.measurements["tiny", "alpha", "codec", "mp3"]
    assert (mp3.num_bonafide, mp3.num_spoof) == (12, 12)
    assert set(mp3.metrics.values()) == {None} and not mp3.intervals
    assert results.measurements["tiny", "alpha", "codec", "flac"].metrics["eer"] is not None
    assert "too few" in to_page(results).to_html()
    assert results.keys("alpha", "speaker") == []  # each has about 10 utterances of a class


def test_speakers_with_enough_utterances_are_measured_one_by_one(tmp_path):
    folder = write_system(tmp_path / "a", corpora=["alpha"])
    results = results_of(folder, settings=Settings(num_bootstrap=50, min_group=8))
    speakers = [
        results.measurements["tiny", "alpha", "speaker", key] for key in results.keys("alpha", "speaker")
    ]
    assert 5 < len(speakers) < 30
    assert all(min(each.num_bonafide, each.num_spoof) >= 8 and each.intervals for each in speakers)


def test_columns_that_old_scores_lack_are_not_stated(tmp_path):
    without = ("path", "speaker", "split", "codec", "sample_rate", "seconds")
    results = results_of(write_system(tmp_path / "a", without=without))
    assert results.keys("alpha", "codec") == [NOT_STATED]
    assert results.measurements["tiny", "alpha", "all", "all"].clusters == {"utterance": 600}
    assert (
        "alpha does not state, or not often enough: duration, codec, sample rate"
        in to_page(results).to_html()
    )


def test_a_hard_attack_is_marked_and_ordinary_ones_are_not(tmp_path):
    results = results_of(write_system(tmp_path / "a", hard_attack=3, num_utterances=2000))
    marks = {
        key: results.measurements["tiny", "alpha", "attack", key].is_different
        for key in results.keys("alpha", "attack")
    }
    assert marks["A03"] is True
    languages = [results.measurements["tiny", "alpha", "language", key] for key in ("de", "en")]
    assert [each.is_different for each in languages] == [False, False]


def test_false_discoveries_are_controlled_as_benjamini_and_hochberg_do():
    p_values = np.array([0.001, 0.04, 0.03, np.nan, 0.9, 0.012])
    # Of five tests, the k-th smallest p value must be at most 0.01 k for some k: 0.001, 0.012, 0.03 (k = 3), 0.04 (4).
    assert false_discovery_control(p_values).tolist() == [True, True, True, False, False, True]
    assert not false_discovery_control(np.array([0.2, np.nan])).any()
    assert false_discovery_control(np.empty(0)).size == 0


def test_durations_have_bins_that_end_before_their_edge():
    column = encode_durations(np.array([0, 1.99, 2, 15.9, 16, 500, np.nan], np.float32))
    names = [column.names[code] if code >= 0 else None for code in column.codes]
    assert names == ["0–2 s", "0–2 s", "2–4 s", "8–16 s", "16 s and more", "16 s and more", None]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("auto", {"speaker": 30}),
        ("speaker", {"speaker": 30}),
        ("file", {"file": 30}),
        ("utterance", {"utterance": 600}),
    ],
)
def test_utterances_are_drawn_together_by_speaker_or_file_as_asked(tmp_path, kind, expected):
    folder = write_system(tmp_path / "a")
    results = results_of(folder, settings=Settings(num_bootstrap=50, clusters=kind))
    alpha = results.measurements["tiny", "alpha", "all", "all"]
    assert alpha.clusters == expected
    assert results.measurements["tiny", POOLED, "all", "all"].clusters == {
        name: 2 * count for name, count in expected.items()
    }


def test_without_speakers_the_source_file_decides(tmp_path):
    results = results_of(write_system(tmp_path / "a", without=["speaker"]))
    assert results.measurements["tiny", "alpha", "all", "all"].clusters == {"file": 30}


def test_intervals_of_speakers_are_wider_than_independent_ones_and_the_page_says_so(tmp_path):
    results = results_of(write_system(tmp_path / "a", num_utterances=2000, skill=1.5))
    alpha = results.measurements["tiny", "alpha", "all", "all"]
    interval, independent = alpha.intervals["eer"], alpha.independent_eer
    assert independent is not None and alpha.metrics["eer"] is not None
    assert interval.low < independent.low < alpha.metrics["eer"] < independent.high < interval.high
    assert "as if independent" in to_page(results).to_html()


def test_every_metric_of_a_corpus_has_an_interval_and_the_mean_has_one_that_is_narrower(tmp_path):
    results = results_of(write_system(tmp_path / "a"))
    alpha, beta, mean = (results.measurements["tiny", name, "all", "all"] for name in ("alpha", "beta", MEAN))
    assert set(alpha.intervals) == set(ALL)
    for name, (low, high) in alpha.intervals.items():
        assert low <= (alpha.metrics[name] or 0) <= high, name
    widths = [each.intervals["eer"].high - each.intervals["eer"].low for each in (alpha, beta, mean)]
    assert widths[2] < min(widths[:2])


def test_pooled_and_mean_measure_what_their_names_say(tmp_path):
    results = results_of(write_system(tmp_path / "a"))
    utterances = results.score_sets[0].utterances
    scores, is_bonafide = utterances.scores, utterances.is_bonafide
    pooled = results.measurements["tiny", POOLED, "all", "all"]
    assert pooled.metrics["eer"] == equal_error_rate(scores[is_bonafide], scores[~is_bonafide]).eer
