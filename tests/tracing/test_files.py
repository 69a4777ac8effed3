"""The files of a TRACE folder, and the metrics in MLflow, have what the results have."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.tracing import layout
from pipeline.tracing.files import to_files
from pipeline.tracing.mlflow_runs import log_to_mlflow, metrics_of
from pipeline.tracing.results import Results
from tests.layouts import entries_of_tree, spelled_elsewhere
from tests.tracing.example import CASCADE, IDENTITY, TRIALS, example

NAMES = {layout.TRACE_JSON, layout.TRACE_TABLE, layout.TRIALS_TABLE, layout.TRACE_PAGE}


def rows_of(results: Results) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(
        io.BytesIO(to_files(results)[layout.TRACE_TABLE])
    ).to_pylist()
    return rows


def test_the_tree_in_the_docstring_has_every_name():
    assert NAMES | {layout.CONFIG} <= entries_of_tree(layout)


def test_no_other_module_spells_the_names():
    assert spelled_elsewhere(layout, NAMES) == set()


def test_the_table_of_trials_is_written_only_with_trials():
    assert set(to_files(example())) == NAMES - {layout.TRIALS_TABLE}
    files = to_files(example(verification=TRIALS))
    assert set(files) == NAMES
    assert pq.read_table(io.BytesIO(files[layout.TRIALS_TABLE])).equals(TRIALS.rows)


def test_a_row_has_the_most_similar_systems_in_order_the_votes_and_the_verdict():
    results = example()
    traced, names = results.traced, [system.name for system in results.systems]
    assert traced.llr is not None
    for row, similarities, votes, llr in zip(
        rows_of(results),
        traced.similarities.tolist(),
        traced.votes.tolist(),
        traced.llr.tolist(),
        strict=True,
    ):
        order = sorted(range(len(names)), key=lambda position: -similarities[position])
        assert [row[name] for name in ("nearest", "second", "third")] == [
            names[position] for position in order
        ]
        values = [row[name] for name in ("similarity", "second_similarity", "third_similarity")]
        assert values == [similarities[position] for position in order]
        assert (row["neighbours"], row["neighbours_share"]) == (names[votes.index(max(votes))], max(votes))
        assert row["llr_known"] == llr
        assert row["verdict"] == (row["nearest"] if llr >= 0 else "unknown")


def test_the_true_system_is_null_if_it_is_not_stated():
    rows = rows_of(example(num_of_each=1, num_bonafide=1))
    assert [row["system"] for row in rows] == ["bark", "tacotron2", "vits", "diffusion", "xtts", None]
    assert (rows[-1]["label"], rows[0]["path"]) == ("bonafide", "audio/0.wav")
    assert {row["system"] for row in rows_of(example(is_labelled=False))} == {None}


def test_two_systems_have_no_third_and_without_a_calibration_there_is_no_ratio():
    rows = rows_of(example(systems=("bark", "vits"), is_calibrated=False))
    assert {row["third"] for row in rows} == {row["third_similarity"] for row in rows} == {None}
    assert {row["llr_known"] for row in rows} == {None}
    assert all(row["verdict"] == row["nearest"] for row in rows)
    assert {*rows[0]} == {*rows_of(example())[0]}


@pytest.mark.parametrize("is_labelled", [True, False])
def test_the_json_file_has_everything_that_was_measured(is_labelled: bool):
    results = example(is_labelled=is_labelled, cascade=CASCADE, verification=TRIALS)
    report = json.loads(to_files(results)[layout.TRACE_JSON])
    assert report["settings"] == {"num_neighbours": 21, "seed": 0}
    assert report["chosen"]["layer"] == "4" and report["chosen"]["gallery"]["macro_f1"] == 0.8
    assert report["chosen"]["new"]["accuracy"] == (0.81 if is_labelled else None)
    assert [each["space"] for each in report["candidates"]] == ["centred", "centred", "whitened"]
    assert report["known"]["threshold"] == pytest.approx(0.4)
    assert report["known"]["in_gallery"]["num"] == 90
    assert sum(each["num"] for each in report["confusions"]) == (60 if is_labelled else 0)
    assert report["cascade"]["num_known_right"] == 60
    assert report["trials"]["rates"][0]["eer"] == 0.25
    assert report["gallery"] | {"weights_digest": "0123456789abcdef"} == report["gallery"]


def test_metrics_of_each_layer_are_logged_and_those_that_are_unknown_are_not():
    metrics = metrics_of(example(verification=TRIALS, cascade=CASCADE))
    assert metrics["trace/accuracy"] == 0.81 and metrics["trace/gallery/auroc"] == 0.85
    assert metrics["trace/layer_0/centred/gallery/macro_f1"] == 0.7
    assert metrics["trace/layer_4/whitened/macro_f1"] == 0.8
    assert "trace/layer_4/whitened/gallery/auroc" not in metrics
    assert metrics["trace/trials/system/all/cllr"] == 0.5
    assert metrics["trace/cascade/num_known_right"] == 60
    assert "trace/macro_f1" not in metrics_of(example(is_labelled=False))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow")
def test_the_mlflow_run_is_below_the_run_that_made_the_scores(tmp_path: Path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    results = example(changes={"new": IDENTITY | {"tracking": {"run_id": "1" * 32, "uri": uri}}})
    log_to_mlflow(results, to_files(results), uri=uri, experiment="bonafide", settings={"seed": 0})
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bonafide")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["mlflow.parentRunId"] == "1" * 32
    assert run.data.tags["bonafide.layer"] == "4"
    assert run.data.metrics["trace/fpr95"] == 0.4
    assert "81.0 % named correctly" in run.data.tags["mlflow.note.content"]
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} >= NAMES - {
        layout.TRIALS_TABLE
    }
