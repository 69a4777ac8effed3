"""Scores of frames and regions are loaded for chosen utterances, measured, and shown over time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import (
    Calibration,
    ChosenThreshold,
    fit,
    fit_frames,
    parse_calibration,
)
from pipeline.evaluation.claims import check_claims, read_claims
from pipeline.evaluation.complete import load_columns, load_description
from pipeline.evaluation.files import to_files
from pipeline.evaluation.frames import load_frames, load_regions, regions_of
from pipeline.evaluation.measure import Settings
from pipeline.evaluation.mlflow_runs import corpus_metrics
from pipeline.evaluation.over_time import METRICS
from pipeline.evaluation.results import Results, evaluate
from pipeline.evaluation.scores import load_scores
from pipeline.metrics.localisation import (
    boundary_distances,
    range_eer,
    region_precision,
    segment_eer,
    spoof_time,
)
from pipeline.metrics.timeline import NonSpeech, make_timeline, smooth
from pipeline.storage import Folder
from pipeline.tables import read_table, to_parquet
from tests.evaluation.simulated import write_spliced, write_system


def measured(
    *folders: Folder,
    non_speech: NonSpeech = "excluded",
    smoothing_s: float = 0.2,
    calibration: Calibration | None = None,
) -> Results:
    score_sets = [load_scores(folder) for folder in folders]
    calibrations = {} if calibration is None else {score_sets[0].system: calibration}
    settings = Settings(num_bootstrap=100, smoothing_s=smoothing_s, non_speech=non_speech)
    return evaluate(score_sets, settings, calibrations)


@pytest.fixture
def spliced(tmp_path: Path) -> Folder:
    return write_spliced(tmp_path / "spliced")


def test_the_frames_of_chosen_utterances_stand_beside_their_rows(spliced: Folder):
    everything = load_frames(spliced)
    assert len(everything.rows) == len(everything.scores.utterances) == 80
    uids = pa.array([f"{corpus:04x}{position:012x}" for corpus, position in ((1, 7), (0, 3), (0, 30))])
    chosen = load_frames(spliced, uids)
    assert sorted(chosen.rows["key"].to_pylist()) == sorted(uids.to_pylist())
    assert chosen.rows["id"].to_pylist() == chosen.scores.utterances == ["alpha_003", "alpha_030", "beta_007"]
    written = pa.concat_tables(read_table(spliced, layout.frames_name(part)) for part in (0, 1))
    for key, begin, end in zip(
        chosen.rows["key"], chosen.scores.offsets[:-1], chosen.scores.offsets[1:], strict=True
    ):
        row = pc.index(written["uid"], key).as_py()
        assert chosen.scores.scores[begin:end].tolist() == written["scores"][row].as_py()
        assert float(np.float32(chosen.scores.scores[begin:end].mean())) == pytest.approx(
            chosen.rows["score"][chosen.rows["key"].to_pylist().index(key.as_py())].as_py(), abs=1e-5
        )


def test_the_measurements_are_those_of_the_metrics(spliced: Folder):
    results = measured(spliced)
    (measurement,) = results.over_time.measurements if results.over_time else ()
    framed = load_frames(spliced, load_regions(spliced)["uid"].unique())
    frames = smooth(framed.scores, 0.2)
    timeline = make_timeline(frames, regions_of(framed, load_regions(spliced)), "excluded")
    metrics = measurement.metrics
    assert list(metrics) == list(METRICS)
    assert (metrics["range_eer"], metrics["range_eer_threshold"]) == range_eer(timeline)[:2]
    for milliseconds in (20, 40, 80, 160, 320, 640):
        assert metrics[f"segment_eer_{milliseconds}ms"] == segment_eer(timeline, milliseconds / 1000).eer
    times = spoof_time(timeline, 0.0)
    assert [metrics[f"time_{name}"] for name in ("accuracy", "precision", "recall", "f1")] == list(times[:4])
    assert metrics["region_precision"] == region_precision(timeline, 0.0, 0.5).average_precision
    boundaries = boundary_distances(timeline, 0.0)
    assert metrics["boundaries_within_200ms"] == boundaries.share_within(0.2)
    assert metrics["detected_per_boundary"] == boundaries.num_detected / 20
    assert (measurement.num_bonafide, measurement.num_spoof, measurement.num_clusters) == (20, 20, 10)
    low, high = measurement.intervals["range_eer"]
    assert low < range_eer(timeline).eer < high

    files = to_files(results)
    report = json.loads(files[layout.METRICS_JSON])
    written = report["metrics"]["tiny"]["alpha"]["frames"]["non_speech_excluded"]
    assert (written["range_eer"], written["range_eer_high"]) == (metrics["range_eer"], high)
    assert (report["settings"]["smoothing_s"], report["settings"]["non_speech"]) == (0.2, "excluded")
    assert set(report["metrics"]["tiny"]["beta"]) >= {"all", "attack"}
    assert "frames" not in report["metrics"]["tiny"]["beta"]
    logged = corpus_metrics(results, "tiny")
    assert logged["range_eer/alpha"] == metrics["range_eer"]
    assert not any("seconds" in name or "threshold" in name for name in logged)
    page = files[layout.REPORT_PAGE].decode()
    assert "alpha, non-speech excluded" in page
    assert f"{100 * range_eer(timeline).eer:.2f} %" in page


def test_spliced_halves_are_found_and_noise_and_no_smoothing_make_it_harder(tmp_path: Path):
    clear = write_spliced(tmp_path / "clear", noise=0.5)
    noisy = write_spliced(tmp_path / "noisy", noise=4.0)
    results = [measured(clear), measured(noisy), measured(noisy, smoothing_s=0.0)]
    metrics = [each.over_time.measurements[0].metrics for each in results if each.over_time]
    eers = [each["range_eer"] or 0.0 for each in metrics]
    assert 0 < eers[0] < 0.02 < eers[1] < 0.15 < eers[2]
    assert metrics[0]["boundaries_within_200ms"] == metrics[0]["region_precision"] == 1


def test_non_speech_counts_as_asked(spliced: Folder):
    regions = load_regions(spliced)
    is_bonafide_part = pc.equal(regions["start_s"], 0)
    labels = pc.if_else(is_bonafide_part, "non_speech", regions["label"])
    table = regions.set_column(3, "label", labels)
    spliced.commit(layout.REGIONS, to_parquet(table))
    with_pauses, without = measured(spliced, non_speech="bonafide"), measured(spliced)
    (one,) = with_pauses.over_time.measurements if with_pauses.over_time else ()
    (other,) = without.over_time.measurements if without.over_time else ()
    assert (one.key, other.key) == ("non_speech_bonafide", "non_speech_excluded")
    assert one.metrics["range_eer"] is not None
    # Without bona fide time there is no error rate, but the spoofed time is still found.
    assert (other.metrics["range_eer"], other.metrics["bonafide_seconds"]) == (None, 0)
    assert other.metrics["time_recall"] == one.metrics["time_recall"]
    assert "alpha, non-speech counted as bona fide" in to_files(with_pauses)[layout.REPORT_PAGE].decode()


def test_the_shown_utterances_are_the_worst_and_the_best_of_the_last_system(tmp_path: Path):
    first = write_spliced(tmp_path / "first", system="first", noise=0.1)
    last = write_spliced(tmp_path / "last", system="last", noise=3.0)
    results = measured(first, last)
    assert results.over_time is not None
    assert results.over_time.system == "last"
    rows = load_columns(last, load_description(last)).sort_by("score").to_pylist()
    spoof = [row["id"] for row in rows if row["label"] == "spoof"]
    bonafide = [row["id"] for row in rows if row["label"] == "bonafide"]
    shown = {kind: [each.id for each in several] for kind, several in results.over_time.shown.items()}
    missed, false_alarms, found, accepted = shown.values()
    assert (missed, found) == (spoof[:-4:-1], spoof[:3])
    assert (false_alarms, accepted) == (bonafide[:3], bonafide[:-4:-1])
    assert ["missed" in kind for kind in shown] == [True, False, False, False]
    page = to_files(results)[layout.REPORT_PAGE].decode()
    for several in results.over_time.shown.values():
        for each in several:
            framed = load_frames(last, pa.array([row["uid"] for row in rows if row["id"] == each.id]))
            assert np.array_equal(each.frames, smooth(framed.scores, 0.2).scores)
            # The regions of the corpus beta are not known.
            assert len(each.regions) == (0 if each.corpus == "beta" else 1 + (each.label == "spoof"))
            assert f"{each.corpus} · {each.id}: " in page


def test_few_utterances_are_shown_once(tmp_path: Path):
    results = measured(write_spliced(tmp_path / "few", num_utterances=4, corpora=["alpha"]))
    assert results.over_time is not None
    ids = [each.id for several in results.over_time.shown.values() for each in several]
    assert sorted(ids) == ["alpha_000", "alpha_001", "alpha_002", "alpha_003"]


def test_a_calibration_gives_the_threshold(spliced: Folder):
    calibration = Calibration(
        2.0,
        1.0,
        0.5,
        "0123abcd",
        "whole",
        "fp32",
        "tiny",
        "",
        (),
        "",
        1,
        1,
        ChosenThreshold(2.0, None, False),
    )
    results = measured(spliced, calibration=calibration)
    assert results.over_time is not None
    assert results.over_time.thresholds["tiny"] == (0.5, "calibrated on utterances")
    (measurement,) = results.over_time.measurements
    framed = load_frames(spliced, load_regions(spliced)["uid"].unique())
    timeline = make_timeline(
        smooth(framed.scores, 0.2), regions_of(framed, load_regions(spliced)), "excluded"
    )
    assert measurement.metrics["time_f1"] == spoof_time(timeline, 0.5).f1 != spoof_time(timeline, 0.0).f1
    assert "calibrated on utterances" in to_files(results)[layout.REPORT_PAGE].decode()


def test_a_threshold_of_frames_is_where_errors_are_equal_and_precedes_that_of_utterances(tmp_path: Path):
    validation = load_scores(write_spliced(tmp_path / "validation", noise=12.0))
    chosen = fit_frames(validation, 0.2, "excluded")
    assert chosen is not None
    calibration = fit(validation, 0.5, llr=0.0)
    calibration = parse_calibration(replace(calibration, frame_threshold=chosen).to_json(), "c")
    assert (calibration.frame_threshold, chosen.num_utterances) == (chosen, 40)

    results = measured(Folder(validation.location), calibration=calibration)
    assert results.over_time is not None
    origin = "calibrated on frames"
    assert results.over_time.thresholds["tiny"] == (chosen.score, origin)
    (measurement,) = results.over_time.measurements
    metrics = measurement.metrics
    assert metrics["range_eer"] == chosen.range_eer > 0.01
    # At equal error rates, as much of the spoofed time is found as of all time is decided correctly.
    for name in ("time_recall", "time_accuracy"):
        assert metrics[name] == pytest.approx(1 - chosen.range_eer, abs=2e-3)
    assert origin in to_files(results)[layout.REPORT_PAGE].decode()
    assert not any("threshold of frames" in each for each in results.warnings)
    otherwise = measured(Folder(validation.location), calibration=calibration, smoothing_s=0.0)
    handling = (
        "frames averaged over 0.2 s, non-speech excluded; evaluate with --smoothing 0.2 --non-speech excluded"
    )
    assert any(handling in each for each in otherwise.warnings)


def test_without_regions_of_both_classes_there_is_no_threshold_of_frames(tmp_path: Path):
    plain = load_scores(Folder(str(write_system(tmp_path / "plain", num_utterances=80))))
    unknown = load_scores(write_spliced(tmp_path / "unknown", regions_of=[]))
    spliced = write_spliced(tmp_path / "spliced")
    regions = load_regions(spliced)
    spliced.commit(layout.REGIONS, to_parquet(regions.filter(pc.equal(regions["label"], "spoof"))))
    for scores in (plain, unknown, load_scores(spliced)):
        assert fit_frames(scores, 0.2, "excluded") is None


def claim(metric: str, rest: str, corpus: str = "alpha") -> str:
    return f"[[claim]]\nmetric = '{metric}'\ncorpus = '{corpus}'\n{rest}\n"


def test_claims_name_rates_over_time(spliced: Folder):
    results = measured(spliced)
    metrics = results.measurements["tiny", "alpha", "frames", "non_speech_excluded"].metrics
    low, high = results.measurements["tiny", "alpha", "frames", "non_speech_excluded"].intervals["range_eer"]
    eer = metrics["range_eer"] or 0.0
    between = (eer + high) / 2
    text = (
        claim("range_eer", f"below = {between}")
        + claim("range_eer", f"below = {between}\nby = 'interval'")
        + claim("segment_eer_160ms", "below = 0.5")
        + claim("time_f1", f"above = {metrics['time_f1']}")
        + claim(
            "region_precision", f"system = 'tiny'\npublished = {metrics['region_precision']}\nwithin = 0.01"
        )
        + claim("boundaries_within_200ms", "above = 0.5\nby = 'interval'")
    )
    verdicts = check_claims(read_claims(text, "c.toml"), results)
    assert [verdict.holds for verdict in verdicts] == [True, False, True, False, True, False]
    assert str(verdicts[1]) == (
        f"c.toml:5: FAILS: range_eer of tiny on alpha, non-speech excluded, is {100 * eer:.2f} % (95 % interval "
        f"{100 * low:.2f} % to {100 * high:.2f} %), from 20 bona fide and 20 spoof utterances; claimed: the whole "
        f"interval is below {100 * between:.2f} %"
    )
    assert verdicts[5].text == "tiny has no interval of boundaries_within_200ms on alpha"
    report = json.loads(to_files(results, verdicts)[layout.METRICS_JSON])
    assert [each["holds"] for each in report["claims"]] == [verdict.holds for verdict in verdicts]


def test_claims_over_time_fail_where_nothing_was_measured(spliced: Folder, tmp_path: Path):
    plain = measured(Folder(str(write_system(tmp_path / "plain", num_utterances=80))))
    for results, corpus, reason in (
        (measured(spliced), "beta", "no regions of its utterances are known"),
        (plain, "alpha", "its scores have no frames; score with --frames"),
    ):
        (verdict,) = check_claims(read_claims(claim("range_eer", "below = 1", corpus), "c"), results)
        assert not verdict.holds
        assert verdict.text == f"tiny has no range_eer on {corpus}: {reason}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (claim("range_eer", "better = ['a', 'b']"), "c:1: systems are not compared by range_eer; known: eer"),
        (claim("range_eer", "below = 1", "pooled"), "range_eer is measured for single corpora; .* of pooled"),
        (
            claim("segment_eer_30ms", "below = 1"),
            "unknown metric 'segment_eer_30ms'; did you mean segment_eer",
        ),
    ],
)
def test_claims_over_time_that_cannot_be_checked_are_refused(text: str, message: str):
    with pytest.raises(InputError, match=message):
        read_claims(text, "c")


def test_only_the_scored_beginning_counts(tmp_path: Path):
    results = measured(write_spliced(tmp_path / "first", num_scored=40))
    assert results.over_time is not None
    (measurement,) = results.over_time.measurements
    seconds = (measurement.metrics["bonafide_seconds"] or 0) + (measurement.metrics["spoof_seconds"] or 0)
    assert seconds == pytest.approx(40 * 0.8, abs=0.5)
    assert results.over_time.num_cut == 40
    page = to_files(results)[layout.REPORT_PAGE].decode()
    assert "40 utterances were scored at their beginning only" in page
    first = next(iter(results.over_time.shown.values()))[0]
    assert f"; only 0.8 of {first.seconds:.1f} s were scored" in page


def test_scores_without_frames_have_no_section(tmp_path: Path):
    plain = Folder(str(write_system(tmp_path / "plain", num_utterances=80)))
    results = measured(plain)
    assert results.over_time is None
    assert "Over time" not in to_files(results)[layout.REPORT_PAGE].decode()
    with pytest.raises(InputError, match=r"plain: these scores have no scores of frames; .* --frames"):
        load_frames(plain)


def test_without_regions_utterances_are_shown_and_nothing_is_measured(tmp_path: Path):
    results = measured(write_spliced(tmp_path / "unknown", regions_of=[]))
    assert results.over_time is not None
    assert not results.over_time.measurements
    page = to_files(results)[layout.REPORT_PAGE].decode()
    assert "No regions of these utterances are known" in page
    assert page.count("<figcaption>alpha · ") + page.count("<figcaption>beta · ") >= 12


def test_missing_frames_and_regions_of_other_audio_are_refused(spliced: Folder):
    regions = load_regions(spliced)
    longer = regions.set_column(2, "end_s", pc.add(regions["end_s"], 60))
    spliced.commit(layout.REGIONS, to_parquet(longer))
    with pytest.raises(InputError, match=r"spliced: alpha: alpha_0\d\d: region .* (ends after|overlaps)"):
        measured(spliced)
    spliced.commit(layout.REGIONS, b"no table")
    with pytest.raises(InputError, match=r"regions\.parquet: not a Parquet file of regions"):
        measured(spliced)
    spliced.commit(layout.REGIONS, to_parquet(regions))
    table = read_table(spliced, layout.frames_name(0))
    spliced.commit(layout.frames_name(0), to_parquet(table.slice(1)))
    with pytest.raises(InputError, match="1 utterances have no scores of frames, the first is alpha_039"):
        measured(spliced)
    Path(spliced.location(layout.frames_name(0))).unlink()
    with pytest.raises(InputError, match=r"part-000000\.parquet is missing"):
        measured(spliced)
