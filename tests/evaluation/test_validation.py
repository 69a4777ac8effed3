"""The page about the validations of a training."""

import json
import re

import numpy as np
import pytest

from pipeline.evaluation.validation import ALL, Validation, eer_history, from_table, to_page, to_table
from pipeline.metrics import ClassScores


def validation(step: int, skill: float) -> Validation:
    rng = np.random.default_rng(step)

    def scores(num: int, shift: float) -> ClassScores:
        return ClassScores(rng.normal(shift, 1, num), rng.normal(-shift, 1, 2 * num))

    only_spoof = ClassScores(np.zeros(0), rng.normal(-skill, 1, 5))
    return Validation(
        step, {"asvspoof5": scores(200, skill), "mlaad": scores(50, skill / 2), "dfadd": only_spoof}
    )


VALIDATIONS = [validation(100, 0.1), validation(200, 2.0), validation(300, 1.0)]
HISTORY = {
    each.step: {corpus: eer for corpus in (ALL, *each.by_corpus) if (eer := each.eer(corpus)) is not None}
    for each in VALIDATIONS
}


def test_scores_come_back_from_their_table() -> None:
    table = to_table(VALIDATIONS[0])
    assert table.column_names == ["corpus", "label", "score"]
    assert len(table) == 200 * 3 + 50 * 3 + 5
    again = from_table(100, table)
    assert again.by_corpus.keys() == VALIDATIONS[0].by_corpus.keys()
    for corpus, scores in VALIDATIONS[0].by_corpus.items():
        for one, other in zip(scores, again.by_corpus[corpus], strict=True):
            np.testing.assert_array_equal(one.astype(np.float32), other)
    assert len(to_table(Validation(1, {}))) == 0


def test_history_is_read_from_lines_of_metrics_and_the_later_of_two_counts() -> None:
    points: list[dict[str, float]] = [
        {"step": 50, "train/loss": 1.0},
        {"step": 100, "validation/eer": 0.4, "validation/eer/mlaad": 0.5},
        {"step": 200, "validation/eer": 0.9},
        {"step": 150, "train/loss": 0.9},
        {"step": 200, "validation/eer": 0.3, "validation/eer/mlaad": 0.2, "train/loss": 0.5},
    ]
    assert eer_history(map(json.dumps, points)) == {
        100: {ALL: 0.4, "mlaad": 0.5},
        200: {ALL: 0.3, "mlaad": 0.2},
    }


def test_the_page_tells_first_best_and_latest_apart() -> None:
    page = to_page("train tiny", HISTORY, 200, VALIDATIONS).to_html()
    for words in ("step 100 (first)", "step 200 (best)", "step 300 (latest)", "DET: asvspoof5", "DET: mlaad"):
        assert words in page
    assert "DET: dfadd" not in page, "without bona fide speech there is no curve"
    assert f"{100 * HISTORY[200][ALL]:.2f}" in page
    assert "1 since were no better" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page), "nothing to fetch"


@pytest.mark.parametrize("num", [1, 2])
def test_the_page_of_the_first_validations_is_whole(num: int) -> None:
    history = dict(list(HISTORY.items())[:num])
    page = to_page("train tiny", history, 100 * num, VALIDATIONS[:num]).to_html()
    assert "the latest" in page
    assert ("step 100 (first, best, latest)" in page) == (num == 1)


def test_one_corpus_needs_no_total() -> None:
    alone = Validation(10, {"mlaad": VALIDATIONS[1].by_corpus["mlaad"]})
    eer = alone.eer()
    assert eer is not None
    page = to_page("t", {10: {ALL: eer, "mlaad": eer}}, 10, [alone]).to_html()
    assert page.count("DET: ") == page.count(f"DET: {ALL}")
