"""`bonafide drift`: from SCORES folders to a reference, and from both to the report and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.__main__ import run_command
from jobs.drift import DriftConfig, main
from pipeline.config import parse
from pipeline.drift import layout
from pipeline.drift.sample import Sample
from pipeline.storage import Folder
from tests.drift.simulated import simulate, write_scores

SHORT = ["--num-permutations", "499"]


def fit(tmp_path: Path, sample: Sample, *flags: str) -> Path:
    """Write scores, and the reference of them."""
    reference = tmp_path / "reference.parquet"
    scores = write_scores(tmp_path / "old", sample)
    assert run_command("drift", ["--fit", scores, "--out", str(reference), *flags]) == 0
    return reference


def compare(tmp_path: Path, reference: Path, sample: Sample, *flags: str) -> int:
    """Write scores, and compare them with a reference; returns the exit status."""
    scores = write_scores(tmp_path / "new", sample)
    argv = ["--reference", str(reference), "--new", scores, "--out", str(tmp_path / "report"), *SHORT, *flags]
    return run_command("drift", argv)


def test_drift_is_exit_status_1_with_one_line_and_no_drift_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    reference = fit(tmp_path, simulate(0, 300))
    printed = capsys.readouterr().out
    assert "tiny: 200 utterances to compare with, " in printed
    assert "8 components of layer head with 100.0 % of the variance, from 100 other utterances\n" in printed
    assert printed.endswith(f"reference: {reference}\n")
    assert compare(tmp_path, reference, simulate(1, 200)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no drift beyond chance: p 0.")
    assert printed.endswith(f"report: {tmp_path}/report/drift.html\n")
    assert compare(tmp_path, reference, simulate(1, 200, shift=1.0)) == 1
    error = capsys.readouterr().err
    (alarm,) = [line for line in error.splitlines() if line.startswith("bonafide drift: ")]
    assert alarm.startswith("bonafide drift: drift of bona fide and spoof: p 0.0")


def test_the_report_has_distances_groups_identities_and_settings(tmp_path: Path):
    reference = fit(tmp_path, simulate(0, 300))
    compare(tmp_path, reference, simulate(1, 200, shift=1.0), "--seed", "3")
    out = tmp_path / "report"
    report = json.loads((out / layout.DRIFT_JSON).read_bytes())
    assert report["alarm"] and report["test"]["by_label"]["spoof"]["p_value"] < 0.01
    assert report["new"]["weights_digest"] == report["reference"]["weights_digest"] == "0123456789abcdef"
    assert {group["name"] for group in report["groups"]} == {"calls · bona fide", "calls · spoof · tts"}
    table = pq.read_table(out / layout.DRIFT_TABLE).to_pylist()
    assert {(row["subject"], row["distance"]) for row in table} == {
        *(("embedding", name) for name in ("mmd2", "w1", "sliced_w1", "frechet")),
        *((subject, name) for subject in ("score", "seconds", "level_dbfs") for name in ("w1", "ks")),
    }
    assert all(row["p_value"] >= 1 / 500 for row in table)
    html = (out / layout.DRIFT_PAGE).read_text()
    for text in (
        "Drift of bona fide and spoof: p",
        "Corpora and attacks",
        "0123456789abcdef",
        "What this can tell",
    ):
        assert text in html
    saved = parse(DriftConfig, ["--config", str(out / layout.CONFIG)], command="bonafide drift")
    assert (saved.seed, saved.num_permutations) == (3, 499)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(saved) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def test_scores_without_embeddings_are_compared_by_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reference = fit(tmp_path, simulate(0), "--layer", "none")
    assert "no embeddings: scores, durations and levels are compared" in capsys.readouterr().out
    assert compare(tmp_path, reference, simulate(1, layer="", shift=1.0)) == 1
    assert "by Kolmogorov–Smirnov of the score" in capsys.readouterr().out


def test_user_errors_are_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reference = fit(tmp_path, simulate(0))
    old = str(tmp_path / "old")
    capsys.readouterr()
    assert compare(tmp_path, reference, simulate(1, weights_digest="fedcba")) == 2
    assert "the reference is of the weights 0123456789abcdef" in capsys.readouterr().err
    assert compare(tmp_path, reference, simulate(1), "--clusters", "utterance") == 2
    assert "was divided by --clusters auto" in capsys.readouterr().err
    reference.write_bytes(reference.read_bytes()[:-50])
    assert compare(tmp_path, reference, simulate(1)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "or damaged" in line
    out = ["--out", str(tmp_path / "report")]
    for argv, message in {
        (): "give either --fit SCORES, or --reference",
        ("--fit", old, "--new", old): "give either --fit SCORES, or --reference",
        ("--new", old): "give either --fit SCORES, or --reference",
        ("--fit", str(tmp_path / "nowhere")): "no scores here",
        ("--fit", old, "--layer", "4"): "has no embeddings of layer 4, only of head",
        ("--fit", old, "--layer", "mine"): "--layer: expected head, spectrum, the number of a layer, or none",
        ("--fit", old, "--num-permutations", "99"): "cannot give a p below --alarm 0.01",
        ("--reference", old, "--new", str(tmp_path / "report")): "is an input as well",
    }.items():
        assert run_command("drift", [*argv, *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "report").exists()


def test_reference_and_report_can_be_on_s3(tmp_path: Path, bucket: str):
    scores = write_scores(tmp_path / "old", simulate(0, 150))
    reference = f"{bucket}/references/first.parquet"
    assert run_command("drift", ["--fit", scores, "--out", reference]) == 0
    argv = ["--reference", reference, "--new", scores, "--out", f"{bucket}/report", *SHORT]
    assert run_command("drift", argv) == 0
    assert Folder(f"{bucket}/report").exists(layout.DRIFT_PAGE)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow")
def test_the_mlflow_run_is_below_the_run_that_made_the_scores(tmp_path: Path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    reference = fit(tmp_path, simulate(0))
    new = simulate(1)
    new = replace(new, identity={**new.identity, "tracking": {"run_id": "1" * 32, "uri": uri}})
    assert compare(tmp_path, reference, new, "--tracking-uri", uri) == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bonafide")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["mlflow.parentRunId"] == "1" * 32
    assert run.data.tags["bonafide.drift"] == "none"
    assert run.data.metrics["drift/p_value"] > 0.01
    assert "drift/embedding_mmd2/spoof/p_value" in run.data.metrics
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {layout.DRIFT_JSON, layout.DRIFT_TABLE, layout.DRIFT_PAGE, layout.CONFIG} <= names


def test_help_imports_no_heavy_library():
    code = (
        "import sys, jobs.drift; "
        "print([name for name in ('torch', 'ray', 'mlflow', 'scipy') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
