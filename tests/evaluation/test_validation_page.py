"""The validation page of a training."""

import json
import re

import numpy as np
import pytest

from pipeline import tracking
from pipeline.evaluation.validation_page import (
    ALL,
    ValidationScores,
    eer_history,
    from_table,
    to_page,
    to_table,
)
from pipeline.metrics import ClassScores


def validation(step: int, skill: float) -> ValidationScores:
    rng = np.random.default_rng(step)

    def scores(num: int, shift: float) -> ClassScores:
        return ClassScores(rng.normal(shift, 1, num), rng.normal(-shift, 1, 2 * num))

    only_spoof = ClassScores(np.zeros(0), rng.normal(-skill, 1, 5))
    return ValidationScores(
        step, {"asvspoof5": scores(200, skill), "mlaad": scores(50, skill / 2), "dfadd": only_spoof}
    )


VALIDATIONS = [validation(100, 0.1), validation(200, 2.0), validation(300, 1.0)]
HISTORY = {
    each.step: {corpus: eer for corpus in (ALL, *each.by_corpus) if (eer := each.eer(corpus)) is not None}
    for each in VALIDATIONS
}


def test_scores_survive_the_round_trip_through_a_table() -> None:
    table = to_table(VALIDATIONS[0])
    assert table.column_names == ["corpus", "label", "score"]
    assert len(table) == 200 * 3 + 50 * 3 + 5
    loaded = from_table(100, table)
    assert loaded.by_corpus.keys() == VALIDATIONS[0].by_corpus.keys()
    for corpus, scores in VALIDATIONS[0].by_corpus.items():
        for one, other in zip(scores, loaded.by_corpus[corpus], strict=True):
            np.testing.assert_array_equal(one.astype(np.float32), other)
    assert len(to_table(ValidationScores(1, {}))) == 0


def test_the_later_line_of_a_repeated_step_counts_in_the_history() -> None:
    points: list[dict[str, float]] = [
        {"step": 50, "train/loss": 1.0},
        {"step": 100, "validation/eer": 0.4, "validation/eer/mlaad": 0.5},
        {"step": 200, "validation/eer": 0.9},
        {"step": 150, "train/loss": 0.9},
        {"step": 200, "validation/eer": 0.3, "validation/eer/mlaad": 0.2, "train/loss": 0.5},
    ]
    data = "".join(json.dumps(point) + "\n" for point in points).encode()
    assert eer_history(tracking.read_metrics(data)) == {
        100: {ALL: 0.4, "mlaad": 0.5},
        200: {ALL: 0.3, "mlaad": 0.2},
    }


def test_the_page_names_the_first_the_best_and_the_latest_validation() -> None:
    page = to_page("train tiny", HISTORY, 200, VALIDATIONS).to_html()
    for text in ("step 100 (first)", "step 200 (best)", "step 300 (latest)", "DET: asvspoof5", "DET: mlaad"):
        assert text in page
    assert "DET: dfadd" not in page, "a corpus without bona fide speech has no DET curve"
    assert f"{100 * HISTORY[200][ALL]:.2f}" in page
    assert "no improvement in 1 later validation" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page), "the page loads nothing from elsewhere"


@pytest.mark.parametrize("num", [1, 2])
def test_the_page_can_show_one_or_two_validations(num: int) -> None:
    history = dict(list(HISTORY.items())[:num])
    page = to_page("train tiny", history, 100 * num, VALIDATIONS[:num]).to_html()
    assert "the latest" in page
    assert ("step 100 (first, best, latest)" in page) == (num == 1)


def test_a_single_corpus_has_no_second_plot_for_all_corpora() -> None:
    alone = ValidationScores(10, {"mlaad": VALIDATIONS[1].by_corpus["mlaad"]})
    eer = alone.eer()
    assert eer is not None
    page = to_page("t", {10: {ALL: eer, "mlaad": eer}}, 10, [alone]).to_html()
    assert page.count("DET: ") == page.count(f"DET: {ALL}")
