"""The page about traced utterances: whatever is stated, it says what was measured and what was not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pipeline.tracing.page import headline, to_page
from pipeline.tracing.results import Candidate, Results
from pipeline.tracing.utterance_sections import MAX_MATRIX, NUM_CONFUSIONS
from tests.tracing.example import CASCADE, NO_RATES, TRIALS, example

NAMES = [f"system_{number}" for number in range(60)]


def html_of(results: Results) -> str:
    return to_page(results).to_html()


def row_of(html: str, name: str) -> list[str]:
    """The texts of the cells of the first row of a table with this name."""
    row = re.search(rf'<tr[^>]*><th scope="row">{re.escape(name)}</th>(.*?)</tr>', html)
    assert row is not None, name
    return [
        " ".join(re.sub("<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row[1])
    ]


def test_the_headline_has_accuracy_f1_chance_and_auroc():
    assert headline(example()) == (
        "3 known systems: 81.0 % named correctly (macro F1 0.800, chance 0.333); "
        "unknown ones recognised with AUROC 0.850"
    )


def test_the_headline_says_what_is_missing():
    assert headline(example(unknown=())).endswith("chance 0.333); there are no unknown ones to recognise")
    of_none = example(is_labelled=False)
    accepted = int(of_none.traced.is_known.sum())
    assert headline(of_none) == (
        f"3 known systems: {accepted} of 66 new utterances resemble one; no systems are stated, so no rates are "
        "measured (in the gallery: macro F1 0.800, AUROC 0.850)"
    )
    assert "66 new utterances, each with its nearest system; no systems" in headline(
        example(is_labelled=False, is_calibrated=False)
    )
    best = Candidate("4", "centred", NO_RATES, NO_RATES._replace(num_unknown=24), None)
    only_unknown = example(changes={"candidates": [best], "chosen": 0})
    assert headline(only_unknown).endswith("none is stated to be of one, so no rates are measured")


@pytest.mark.parametrize("num_systems", [1, 2, 60])
@pytest.mark.parametrize("is_labelled", [True, False])
@pytest.mark.parametrize("is_calibrated", [True, False])
def test_the_page_is_written_whatever_is_stated(num_systems: int, is_labelled: bool, is_calibrated: bool):
    results = example(
        systems=NAMES[:num_systems], num_of_each=2, is_labelled=is_labelled, is_calibrated=is_calibrated
    )
    html = html_of(results)
    assert "What it cannot tell" in html and "nan" not in html and "None" not in html
    assert ("Confusions" in html) == is_labelled
    assert ("LLR of known" in html) == is_calibrated
    assert ("third" in re.findall(r'<th scope="col">(\w+)</th>', html)) == (num_systems > 2)


def test_every_metric_has_its_interval_the_gallery_and_chance():
    html = html_of(example())
    assert row_of(html, "named correctly, nearest system") == ["81.0 % 72.0 % – 88.0 %", "81.0 %", "33.3 %"]
    assert row_of(html, "macro F1, vote of neighbours") == ["0.770", "0.770", "0.333"]
    assert row_of(html, "AUROC of known against unknown")[0] == "0.850 0.790 – 0.900"
    assert row_of(html_of(example(unknown=())), "EER of known against unknown") == ["–", "21.0 %", "50.0 %"]


def test_rows_of_the_matrix_are_true_systems_and_right_verdicts_are_marked():
    results = example()
    html = html_of(results)
    counts = results.confusion.counts
    assert [int(cell.replace("·", "0")) for cell in row_of(html, "bark")] == [12, *counts[0].tolist()]
    assert [int(cell.replace("·", "0")) for cell in row_of(html, "xtts (unknown)")] == [
        12,
        *counts[4].tolist(),
    ]
    right = [counts[0, 0], counts[1, 1], counts[2, 2], counts[3, 3], counts[4, 3]]
    marked = re.findall(r'<td class="([a-z ]+)" style="--shade: ([\d.]+)">', html)
    assert [float(shade) for names, shade in marked if "best" in names] == pytest.approx(
        [number / 12 for number in right], abs=0.001
    )


def test_of_many_systems_the_most_frequent_confusions_are_listed():
    assert len(NAMES) > MAX_MATRIX
    results = example(systems=NAMES, num_of_each=4)
    html = html_of(results)
    assert 'class="matrix"' not in html and "The most frequent of " in html
    confusion = results.confusion
    section = html.partition("<h2>Confusions</h2>")[2].partition("</section>")[0]
    listed = re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td><td>(\w+)</td><td[^>]*>(\d+)<', section)
    assert len(listed) == NUM_CONFUSIONS
    numbers = [int(number) for *_, number in listed]
    assert numbers == sorted(numbers, reverse=True)
    for system, known, verdict, number in listed:
        assert verdict != system and (known, verdict) != ("no", "unknown")
        assert confusion.counts[confusion.systems.index(system), confusion.verdicts.index(verdict)] == int(
            number
        )


def test_long_names_are_shortened_in_titles_only():
    name = "tts_models--multilingual--multi-dataset--xtts_v2"
    html = html_of(example(systems=[name, "bark"]))
    assert '<th scope="col" class="number">tts_mode…-dataset--xtts_v2</th>' in html
    assert row_of(html, name)


def test_the_chosen_layer_is_marked_and_a_given_one_is_called_given():
    html = html_of(example())
    assert row_of(html, "4 (chosen)") == ["centred", "0.825", "0.800", "0.850", "0.800", "0.850", "0.100"]
    assert row_of(html, "4") == ["whitened within systems", "0.800", "0.800", "–", "0.800", "0.850", "–"]
    assert "never decide" in html
    given = html_of(example(is_given=True))
    assert "It was given, not chosen." in given and row_of(given, "4 (given)")


def test_the_threshold_is_drawn_only_if_there_is_one():
    assert html_of(example()).count("threshold 0.400") == 2
    html = html_of(example(is_calibrated=False))
    assert "threshold 0" not in html and "there is no threshold" in html


def test_unlabelled_utterances_are_listed_before_labelled_ones():
    html = html_of(example(is_labelled=False))
    assert "Of 66 utterances whose system is not stated" in html and ">true system<" not in html
    results = example()
    html = html_of(results)
    assert "Of 66 new utterances" in html
    similarity = results.traced.similarities.max(axis=1)
    first = html.partition("The most confident</caption>")[2]
    assert f'<th scope="row">audio/{int(similarity.argmax())}.wav</th>' in first.partition("</tr><tr>")[0]
    doubtful = html.partition("The most doubtful</caption>")[2]
    assert results.traced.llr is not None
    assert f'<th scope="row">audio/{int(abs(results.traced.llr).argmin())}.wav</th>' in doubtful[:1500]


def test_cascade_and_trials_are_shown_if_there_are_any():
    html = html_of(example())
    assert "Detector first" not in html and "<h2>Trials" not in html
    html = html_of(example(cascade=CASCADE, verification=TRIALS))
    assert row_of(html, "spoof: known system, traced to it") == ["60 62.5 %"]
    assert row_of(html, "bona fide: called bona fide") == ["18 90.0 %"]
    assert row_of(html, "same system") == ["all", "1", "1", "25.0 %", "0.750", "0.500"]
    assert "3 trials have no score" in html
    unlabelled = html_of(example(verification=replace(TRIALS, rates=[])))
    assert "The trials do not state whether they are the same" in unlabelled


def test_warnings_and_shared_speakers_are_on_the_page():
    results = replace(example(), warnings=["Look out."], num_shared_clusters=2)
    html = html_of(results)
    assert '<p class="warning">Look out.</p>' in html
    assert "2 speakers or source files of new utterances of known systems are in it as well" in html
