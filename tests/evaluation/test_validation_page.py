"""The validation page of a training."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import tables, tracking
from pipeline.evaluation.validation_page import (
    ALL,
    NAMES,
    NUM_HARDEST,
    ValidationScores,
    eer_history,
    from_table,
    to_page,
    to_table,
)
from pipeline.metrics import SELECTIONS, Group, GroupedScores, Selection
from pipeline.storage import Folder


def validation(step: int, skill: float, weights: str = "raw") -> ValidationScores:
    rng = np.random.default_rng(step)

    def scores(num: int, shift: float) -> np.ndarray:
        return np.sort(rng.normal(shift, 1, num))

    groups = {
        Group("asvspoof5"): scores(200, skill),
        Group("asvspoof5", "A01"): scores(300, -skill),
        Group("asvspoof5", "A02"): scores(100, -skill),
        Group("mlaad"): scores(50, skill / 2),
        Group("mlaad", "bark"): scores(100, -skill / 2),
        Group("dfadd", "tts"): scores(5, -skill),
    }
    return ValidationScores(step, GroupedScores(groups), weights, frame_eer=0.3 / (1 + skill))


VALIDATIONS = [validation(100, 0.1), validation(200, 2.0, "ema"), validation(300, 1.0)]
HISTORY = {each.step: {each.weights: each.rates} for each in VALIDATIONS}
HISTORY[200]["raw"] = dict.fromkeys(HISTORY[200]["ema"], 0.4)


def test_scores_survive_the_round_trip_through_a_table() -> None:
    table = to_table(VALIDATIONS[1])
    assert table.column_names == ["corpus", "attack", "label", "score", "weights"]
    assert len(table) == 200 + 300 + 100 + 50 + 100 + 5
    loaded = from_table(200, table)
    assert (loaded.step, loaded.weights) == (200, "ema")
    assert loaded.scores.by_group.keys() == VALIDATIONS[1].scores.by_group.keys()
    for group, scores in VALIDATIONS[1].scores.by_group.items():
        np.testing.assert_array_equal(scores.astype(np.float32), loaded.scores.by_group[group])
    is_spoof = np.array(table["label"].to_pylist()) == "spoof"
    np.testing.assert_array_equal(is_spoof, np.array(table["attack"].to_pylist()) != "")


@pytest.mark.parametrize("frame_eer", [None, 0.0, 1 / 3])
def test_the_error_rate_of_frames_survives_a_file(tmp_path: Path, frame_eer: float | None) -> None:
    folder = Folder(str(tmp_path))
    folder.commit("a.parquet", tables.to_parquet(to_table(replace(VALIDATIONS[1], frame_eer=frame_eer))))
    loaded = from_table(200, tables.read_table(folder, "a.parquet"))
    assert loaded.frame_eer == frame_eer
    assert loaded.rates.get("labelled frames") == frame_eer


def test_the_later_line_of_a_repeated_step_counts_in_the_history() -> None:
    points: list[dict[str, float]] = [
        {"step": 50, "train/loss": 1.0},
        {"step": 100, "validation/eer": 0.4, "validation/eer/mlaad": 0.5},
        {"step": 200, "validation/eer": 0.9},
        {"step": 150, "train/loss": 0.9},
        {"step": 200, "validation/eer": 0.3, "validation/mean_eer/attacks": 0.2, "train/loss": 0.5}
        | {"validation/ema/eer": 0.25, "validation/ema/eer/mlaad": 0.15, "validation/frame_eer": 0.1},
    ]
    data = "".join(json.dumps(point) + "\n" for point in points).encode()
    assert eer_history(tracking.read_metrics(data)) == {
        100: {"raw": {ALL: 0.4, "mlaad": 0.5}},
        200: {
            "raw": {ALL: 0.3, "mean of attacks": 0.2, "labelled frames": 0.1},
            "ema": {ALL: 0.25, "mlaad": 0.15},
        },
    }


def test_the_page_names_the_first_the_best_and_the_latest_validation() -> None:
    page = to_page("train tiny", HISTORY, 200, VALIDATIONS, "pooled").to_html()
    for text in (
        *("step 100 (first)", "step 200 (best, EMA)", "step 300 (latest)", "DET: asvspoof5", "DET: mlaad"),
        *("EMA dashed", "asvspoof5/A01", "dfadd/tts", f"{ALL}, step 200: 40.00 %"),
    ):
        assert text in page
    assert "DET: dfadd" not in page, "a corpus without bona fide speech has no DET curve"
    assert f"{ALL}, EMA, step 200: {100 * HISTORY[200]['ema'][ALL]:.2f} %" in page
    assert "no improvement in 1 later validation" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page), "the page loads nothing from elsewhere"


@pytest.mark.parametrize("select_by", SELECTIONS)
def test_the_page_shows_all_means_and_which_one_selects(select_by: Selection) -> None:
    page = to_page("train tiny", HISTORY, 200, VALIDATIONS, select_by).to_html()
    for which, name in NAMES.items():
        assert f"{'best ' if which == select_by else ''}EER %, {name}" in page
        assert (f"best EER %, {name}" in page) == (which == select_by)
        assert f"{100 * HISTORY[200]['ema'][name]:.2f}" in page


def test_the_attacks_with_the_highest_error_rates_have_rows() -> None:
    groups = {Group("a"): np.linspace(0, 1, 101)}
    groups |= {Group("a", f"attack{number:02d}"): np.array([number / 100]) for number in range(30)}
    each = ValidationScores(10, GroupedScores(groups))
    page = to_page("t", {10: {"raw": each.rates}}, 10, [each], "attacks").to_html()
    shown = re.findall(r"a/attack(\d\d)", page)
    assert shown == [f"{number:02d}" for number in range(29, 29 - NUM_HARDEST, -1)]
    assert "10 attacks with lower rates are not shown" in page


@pytest.mark.parametrize("num", [1, 2])
def test_the_page_can_show_one_or_two_validations(num: int) -> None:
    history = dict(list(HISTORY.items())[:num])
    page = to_page("train tiny", history, 100 * num, VALIDATIONS[:num], "pooled").to_html()
    assert "the latest" in page
    assert ("step 100 (first, best, latest)" in page) == (num == 1)


def test_a_single_corpus_has_no_second_plot_for_all_corpora() -> None:
    groups = VALIDATIONS[2].scores.by_group
    mlaad = {group: scores for group, scores in groups.items() if group.corpus == "mlaad"}
    alone = ValidationScores(10, GroupedScores(mlaad))
    page = to_page("t", {10: {"raw": alone.rates}}, 10, [alone], "pooled").to_html()
    assert page.count("DET: ") == page.count(f"DET: {ALL}")
