"""Calibration of a system: fitted on one set of scores, frozen, checked, and applied to another."""

import json
from dataclasses import asdict, replace

import pytest

from pipeline.errors import InputError
from pipeline.evaluation.calibration import Calibration, fit, from_record, load_calibration, parse_calibration
from pipeline.evaluation.measure import MEAN, Settings
from pipeline.evaluation.page import to_page
from pipeline.evaluation.results import evaluate
from pipeline.evaluation.scores import ScoreSet, load_scores
from pipeline.storage import Folder
from tests.evaluation.simulated import write_system

PRIOR = 0.655


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> ScoreSet:
    folder = write_system(tmp_path_factory.mktemp("scores") / "a", skill=1.5, num_utterances=1200)
    return load_scores(Folder(str(folder)))


def test_a_calibration_says_what_it_was_fitted_on(scores):
    calibration = fit(scores, PRIOR)
    assert (calibration.num_bonafide, calibration.num_spoof, calibration.corpora) == (
        1200,
        1200,
        ("alpha", "beta"),
    )
    assert calibration.weights_digest == "0" * 16
    assert (calibration.policy, calibration.precision, calibration.threshold) == ("whole", "fp32", None)
    again = parse_calibration(calibration.to_json(), "x")
    assert again == calibration == from_record(json.loads(json.dumps(asdict(calibration))))


def test_the_digest_of_the_scores_changes_with_a_label(scores, tmp_path):
    other = load_scores(Folder(str(write_system(tmp_path / "a", skill=1.4, num_utterances=1200))))
    assert fit(scores, PRIOR).scores_digest != fit(other, PRIOR).scores_digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights_digest": "f" * 16},
            "x: the calibration is for the weights 0000000000000000, and these are scores",
        ),
        ({"policy": "window:4:mean"}, "the calibration is for the window that is scored whole"),
        ({"precision": "bf16"}, "the calibration is for the arithmetic precision fp32"),
    ],
)
def test_scores_of_another_detector_window_or_precision_are_refused(scores, change, message):
    calibration = fit(scores, PRIOR)
    calibration.check(scores.identity, "x")
    with pytest.raises(InputError) as caught:
        calibration.check({**scores.identity, **change}, "x")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scale": 1}'])
def test_a_file_that_is_no_calibration_is_named(text, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"c\.json: not a calibration by `bonafide calibrate`"):
        load_calibration(str(tmp_path / "c.json"))
    with pytest.raises(InputError, match=r"d\.json: no such file; write it with `bonafide calibrate --out "):
        load_calibration(str(tmp_path / "d.json"))


@pytest.mark.parametrize("change", [{"scale": -1.0}, {"offset": float("nan")}])
def test_a_map_that_does_not_increase_or_is_not_finite_is_refused(scores, change):
    with pytest.raises(InputError, match="not a calibration"):
        parse_calibration(replace(fit(scores, PRIOR), **change).to_json(), "x")


def test_one_class_cannot_be_calibrated(scores):
    spoof = replace(scores, utterances=scores.utterances.take((~scores.utterances.is_bonafide).nonzero()[0]))
    with pytest.raises(InputError, match="a calibration needs bona fide and spoof utterances"):
        fit(spoof, PRIOR)


def test_the_threshold_is_the_guaranteed_one_if_there_are_enough_utterances(scores):
    calibration = fit(scores, PRIOR, false_alarm=0.05)
    assert calibration.threshold is not None and calibration.threshold.is_guaranteed
    spoof = calibration.llr(scores.utterances.scores[~scores.utterances.is_bonafide])
    assert 0.02 < (spoof >= calibration.threshold.llr).mean() < 0.05
    rare = fit(scores, PRIOR, false_alarm=0.001).threshold
    assert rare is not None and not rare.is_guaranteed
    assert fit(scores, PRIOR, llr=2.0).threshold == replace(rare, llr=2.0, false_alarm=None)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScoreSet, Calibration]:
    """A system that is too sure of itself, calibrated on other corpora than those to evaluate."""
    folder = tmp_path_factory.mktemp("calibrated")
    validation = write_system(folder / "v", skill=1.5, num_utterances=1200, corpora=["gamma"])
    evaluation = write_system(folder / "e", skill=1.5, num_utterances=1200, training_log_odds=0.7)
    calibration = fit(load_scores(Folder(str(validation))), PRIOR, false_alarm=0.05)
    return load_scores(Folder(str(evaluation))), calibration


def test_calibrated_costs_are_measured_with_intervals_beside_those_as_scored(calibrated):
    scores, calibration = calibrated
    results = evaluate([scores], Settings(num_bootstrap=100), {"tiny": calibration})
    for corpus in ("alpha", "beta", MEAN):
        each = results.measurements["tiny", corpus, "all", "all"]
        values = {name: value for name, value in each.metrics.items() if value is not None}
        assert values["calibrated_cllr"] < values["cllr"]
        assert values["calibrated_cllr"] == pytest.approx(values["cllr_min"] + values["calibrated_cllr_cal"])
        assert values["calibrated_false_alarm"] < 0.15
        for name in ("calibrated_cllr", "calibrated_act_dcf", "calibrated_miss", "calibrated_false_alarm"):
            low, high = each.intervals[name]
            assert low < values[name] < high
    group = results.measurements["tiny", "alpha", "language", "en"]
    assert group.metrics["calibrated_cllr"] is None and group.metrics["cllr"] is not None
    assert not results.warnings


def test_the_page_shows_costs_plots_and_thresholds(calibrated):
    scores, calibration = calibrated
    html = to_page(evaluate([scores], Settings(num_bootstrap=20), {"tiny": calibration})).to_html()
    for text in (
        "tiny is calibrated: log-likelihood ratio = ",
        "Cllr, prior of the training removed",
        "Cllr, calibrated",
        "false alarm there",
        "Reliability: alpha",
        "Tippett: alpha",
        "Cross-entropy: beta",
        "chosen threshold: ",
        "cannot be promised with 600; needs 2,995",
    ):
        assert text in html, text
    bare = to_page(evaluate([scores], Settings(num_bootstrap=20))).to_html()
    assert "Not calibrated: tiny." in bare and "Cllr, calibrated" not in bare


def test_a_calibration_on_the_evaluated_corpora_is_named(scores):
    results = evaluate([scores], Settings(num_bootstrap=20), {"tiny": fit(scores, PRIOR)})
    assert any(
        "tiny was calibrated on utterances of alpha, beta; if they are" in each for each in results.warnings
    )
