"""Loading of SCORES folders, measurements, and the report."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.evaluation.columns import NOT_STATED
from pipeline.evaluation.measure import MEAN, POOLED, Settings
from pipeline.evaluation.page import eer_table, to_page
from pipeline.evaluation.results import Results, evaluate, to_table
from pipeline.evaluation.scores import load_scores, with_unique_names
from pipeline.metrics import equal_error_rate
from pipeline.storage import Folder

Row = tuple[str, str | None, float, str | None, str | None]  # corpus, label, score, attack, language

ROWS: list[Row] = [
    ("alpha", "bonafide", 3.0, None, "en"),
    ("alpha", "bonafide", 1.0, None, "de"),
    ("alpha", "spoof", -2.0, "A01", "en"),
    ("alpha", "spoof", 2.0, "A02", "en"),
    ("alpha", "spoof", -1.0, None, "fr"),
    ("beta", "bonafide", 1.0, None, None),
    ("beta", "spoof", -1.0, "A01", None),
]


def write_scores(folder: Path, rows: list[Row] = ROWS, **changes: object) -> Folder:
    corpus, label, score, attack, language = zip(*rows, strict=True)
    uid = [f"{position:016x}" for position in range(len(rows))]
    table = pa.table(
        {
            "uid": uid,
            "id": uid,
            "corpus": pa.array(corpus, pa.string()),
            "path": uid,
            "label": pa.array(label, pa.string()),
            "artifact": pa.array([None if each != "spoof" else "tts" for each in label], pa.string()),
            "attack": pa.array(attack, pa.string()),
            "language": pa.array(language, pa.string()),
            "score": pa.array(score, pa.float32()),
        }
    )
    (folder / "scores").mkdir(parents=True)
    for part, start in enumerate(range(0, len(rows), 4)):
        pq.write_table(table.slice(start, 4), folder / "scores" / f"part-{part}.parquet")
    record = {
        "system": "tiny",
        "checkpoint": "model.safetensors",
        "snapshot": "000001",
        "policy": "whole",
        "num_utterances": len(rows),
        "num_rejected": 0,
        "tracking": {"run_id": "abc", "uri": ""},
    }
    (folder / "scores.json").write_text(json.dumps({**record, **changes}))
    return Folder(str(folder))


def results_of(*folders: Folder, num_bootstrap: int = 50) -> Results:
    return evaluate(
        with_unique_names([load_scores(folder) for folder in folders]),
        Settings(num_bootstrap=num_bootstrap, min_group=1),
    )


def test_each_corpus_is_measured_on_its_own_utterances(tmp_path):
    measurements = results_of(write_scores(tmp_path)).measurements
    alpha = measurements["tiny", "alpha", "all", "all"]
    assert (alpha.num_bonafide, alpha.num_spoof) == (2, 3)
    assert alpha.metrics["eer"] == equal_error_rate([3.0, 1.0], [-2.0, 2.0, -1.0]).eer
    assert measurements["tiny", "beta", "all", "all"].metrics["eer"] == 0.0


def test_mean_averages_corpora_and_pooled_measures_all_utterances(tmp_path):
    measurements = results_of(write_scores(tmp_path)).measurements
    alpha, beta, mean, pooled = (
        measurements["tiny", name, "all", "all"] for name in ("alpha", "beta", MEAN, POOLED)
    )
    rates = [each.metrics["eer"] for each in (alpha, beta)]
    assert mean.metrics["eer"] == pytest.approx(sum(rate for rate in rates if rate is not None) / 2)
    assert "eer" not in mean.intervals  # one utterance of a class has no interval
    expected = equal_error_rate([3.0, 1.0, 1.0], [-2.0, 2.0, -1.0, -1.0]).eer
    assert pooled.metrics["eer"] == pytest.approx(expected)


def test_an_attack_is_measured_against_all_bona_fide_utterances_of_its_corpus(tmp_path):
    results = results_of(write_scores(tmp_path))
    assert results.keys("alpha", "attack") == ["A01", "A02", NOT_STATED]
    easy, hard = (results.measurements["tiny", "alpha", "attack", key] for key in ("A01", "A02"))
    assert (easy.num_bonafide, easy.num_spoof, easy.metrics["eer"]) == (2, 1, 0.0)
    assert (hard.num_bonafide, hard.num_spoof) == (2, 1)
    assert hard.metrics["eer"] == equal_error_rate([3.0, 1.0], [2.0]).eer


def test_a_language_is_measured_on_its_own_utterances_and_may_lack_a_class(tmp_path):
    results = results_of(write_scores(tmp_path))
    english, german, french = (
        results.measurements["tiny", "alpha", "language", key] for key in ("en", "de", "fr")
    )
    assert english.metrics["eer"] == equal_error_rate([3.0], [-2.0, 2.0]).eer
    assert (german.num_bonafide, german.num_spoof, german.metrics["eer"]) == (1, 0, None)
    assert german.metrics["miss"] == 0.0
    assert (french.num_bonafide, french.num_spoof, french.metrics["eer"]) == (0, 1, None)
    assert french.metrics["false_alarm"] == 0.0
    html = to_page(results).to_html()
    assert "no spoof, 0.00 % misses" in html
    assert "no bona fide, 0.00 % false alarms" in html


def test_unlabelled_and_rejected_utterances_are_left_out_and_counted(tmp_path):
    rows: list[Row] = [*ROWS, ("alpha", None, 0.0, None, None)]
    results = results_of(write_scores(tmp_path, rows, num_rejected=2))
    assert results.measurements["tiny", "alpha", "all", "all"].num_spoof == 3
    assert any("1 utterances have no label" in warning for warning in results.warnings)
    assert any("2 utterances could not be scored" in warning for warning in results.warnings)


def test_a_corpus_with_one_class_has_no_eer_but_stays_in_the_table(tmp_path):
    results = results_of(write_scores(tmp_path, [*ROWS, ("gamma", "bonafide", -1.0, None, None)]))
    gamma = results.measurements["tiny", "gamma", "all", "all"]
    assert (gamma.metrics["eer"], gamma.metrics["miss"]) == (None, 1.0)
    mean = results.measurements["tiny", MEAN, "all", "all"]
    alpha = results.measurements["tiny", "alpha", "all", "all"]
    assert alpha.metrics["eer"] is not None
    assert mean.metrics["eer"] == pytest.approx(alpha.metrics["eer"] / 2)
    assert "–" in eer_table(results)
    assert "no spoof, 100.00 % misses" in to_page(results).to_html()


def test_systems_with_different_utterances_or_settings_get_a_warning(tmp_path):
    one = write_scores(tmp_path / "a", system="one")
    two = write_scores(tmp_path / "b", ROWS[:-1], system="two", policy="window(4)")
    warnings = results_of(one, two).warnings
    assert any("different utterances: beta (2 and 1, 1 shared)" in warning for warning in warnings)
    assert any("differ in the window that is scored: whole and window(4)" in warning for warning in warnings)
    assert results_of(one).warnings == []


def test_systems_with_the_same_name_get_the_names_of_their_folders(tmp_path):
    folders = [write_scores(tmp_path / name) for name in ("first", "second")]
    assert results_of(*folders).systems == ["tiny (first)", "tiny (second)"]
    with pytest.raises(InputError, match="two score folders are both named tiny"):
        results_of(folders[0], folders[0])


def test_the_table_of_values_has_null_for_an_undefined_metric(tmp_path):
    table = to_table(results_of(write_scores(tmp_path)).measurements.values())
    rows = {(row["corpus"], row["group"], row["key"], row["metric"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    assert rows["alpha", "language", "fr", "eer"]["value"] is None
    assert rows["alpha", "language", "fr", "eer"]["num_spoof"] == 1
    assert rows["beta", "all", "all", "eer"]["value"] == 0.0


def test_eer_table_has_a_row_per_corpus_and_a_column_per_system(tmp_path):
    one, two = (write_scores(tmp_path / name, system=name) for name in ("one", "a-longer-name"))
    lines = eer_table(results_of(one, two)).splitlines()
    assert lines[0].split() == ["EER", "(%)", "one", "a-longer-name"]
    assert [line.split()[0] for line in lines[1:]] == ["alpha", "beta", "mean", "pooled"]
    assert lines[2].split()[1:] == ["0.00", "0.00"]
    assert len({len(line) for line in lines}) == 1


def test_a_single_corpus_has_no_mean_row(tmp_path):
    results = results_of(write_scores(tmp_path, ROWS[:5]))
    assert len(eer_table(results).splitlines()) == 2
    assert "pooled" not in to_page(results).to_html()


def test_names_are_escaped_in_the_page(tmp_path):
    name = "<script>alert(1)</script>"
    rows: list[Row] = [(name, label, score, name, name) for _, label, score, _, _ in ROWS]
    html = to_page(results_of(write_scores(tmp_path, rows, system=name, checkpoint=name))).to_html()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 10


def test_an_empty_or_incomplete_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"nothing.*no scores here; write them with `bonafide score"):
        load_scores(Folder(str(tmp_path / "nothing")))
    folder = write_scores(tmp_path / "killed")
    (tmp_path / "killed" / "scores.json").unlink()
    with pytest.raises(InputError, match=r"killed.*did not finish"):
        load_scores(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"system": "tiny"}', '{"system": "x", "num_utterances": null}']
)
def test_a_damaged_description_is_an_error(tmp_path, text):
    folder = write_scores(tmp_path)
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(InputError, match=r"scores\.json: not a description"):
        load_scores(folder)


def test_a_missing_part_is_an_error(tmp_path):
    folder = write_scores(tmp_path)
    (tmp_path / "scores" / "part-1.parquet").unlink()
    with pytest.raises(InputError, match="states 7 utterances, the Parquet files have 4"):
        load_scores(folder)


def test_a_truncated_part_is_an_error(tmp_path):
    folder = write_scores(tmp_path)
    part = tmp_path / "scores" / "part-1.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-1\.parquet: not a Parquet file of scores"):
        load_scores(folder)


def test_missing_columns_are_an_error(tmp_path):
    folder = write_scores(tmp_path)
    part = tmp_path / "scores" / "part-0.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["score", "label"]), part)
    with pytest.raises(InputError, match="columns label, score are missing"):
        load_scores(folder)


def test_an_utterance_with_two_scores_is_an_error(tmp_path):
    folder = write_scores(tmp_path)
    first, second = (tmp_path / "scores" / f"part-{part}.parquet" for part in (0, 1))
    pq.write_table(pq.read_table(first).slice(0, 3), second)
    with pytest.raises(
        InputError, match="3 utterances are scored more than once, the first is 0000000000000000"
    ):
        load_scores(folder)


@pytest.mark.parametrize("score", [np.nan, np.inf, None])
def test_scores_that_are_not_finite_are_an_error(tmp_path, score):
    folder = write_scores(tmp_path, [*ROWS, ("alpha", "spoof", score, None, None)])
    with pytest.raises(
        InputError, match="1 scores are not finite, the first is for utterance 0000000000000007"
    ):
        load_scores(folder)


def test_unknown_labels_and_a_folder_without_labels_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"unknown labels \['real'\]; known: bonafide, spoof"):
        load_scores(write_scores(tmp_path / "a", [*ROWS, ("alpha", "real", 1.0, None, None)]))
    with pytest.raises(InputError, match="none of 1 utterances has a label"):
        load_scores(write_scores(tmp_path / "b", [("alpha", None, 1.0, None, None)]))
