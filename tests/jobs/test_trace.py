"""`bonafide trace`: from SCORES folders to the report, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.__main__ import run_command
from jobs.trace import TraceConfig
from pipeline.config import parse
from pipeline.storage import Folder
from pipeline.tracing import layout
from tests.tracing.simulated import write_scores

SYSTEMS = ["A1", "A2", "A3", "A4"]


def flags(tmp_path: Path, *more: str) -> list[str]:
    """The flags of a command, with those that are given in place of the usual ones."""
    usual = {"--gallery": "old", "--new": "new", "--out": "out"}
    given = [
        text for name, file in usual.items() if name not in more for text in (name, str(tmp_path / file))
    ]
    return [*given, *more]


def test_the_report_names_the_system_of_each_new_utterance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(tmp_path / "old", SYSTEMS)
    write_scores(tmp_path / "new", [*SYSTEMS, "B1"], seed=1, num=20, num_bonafide=10, threshold=0.0)
    assert run_command("trace", flags(tmp_path, "--seed", "3")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("4 known systems: ") and "named correctly (macro F1 " in printed[0]
    assert printed[-1] == f"report: {tmp_path}/out/trace.html"
    out = tmp_path / "out"
    assert {each.name for each in out.iterdir()} == {
        layout.TRACE_JSON,
        layout.TRACE_TABLE,
        layout.TRACE_PAGE,
        layout.CONFIG,
    }
    rows = pq.read_table(out / layout.TRACE_TABLE).to_pylist()
    assert len(rows) == 110
    assert sum(row["system"] == row["nearest"] for row in rows) > 60
    report = json.loads((out / layout.TRACE_JSON).read_text())
    assert report["settings"] == {"num_neighbours": 21, "seed": 3}
    saved = parse(TraceConfig, ["--config", str(out / layout.CONFIG)], command="bonafide trace")
    assert saved.layer == ("auto",) and saved.seed == 3


def test_trials_have_a_table_of_their_own(tmp_path: Path) -> None:
    write_scores(tmp_path / "old", SYSTEMS)
    write_scores(tmp_path / "new", SYSTEMS, seed=1)
    trials = tmp_path / "trials.csv"
    trials.write_text("first,second,same\nA1/,system:A1,true\nA1/,system:A2,false\n")
    assert (
        run_command("trace", flags(tmp_path, "--trials", str(trials), "--layer", "1", "--space", "whitened"))
        == 0
    )
    first, second = pq.read_table(tmp_path / "out" / layout.TRIALS_TABLE).to_pylist()
    assert first["score"] > 0.5 > second["score"] and first["llr"] > 0 > second["llr"]


def test_what_cannot_be_traced_is_refused_in_one_line_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write_scores(tmp_path / "old", SYSTEMS, split="train")
    write_scores(tmp_path / "new", SYSTEMS, seed=1, distances={"7": 4.0})
    for more, message in {
        (): "has embeddings of other layers than the gallery; score both with the same --layer",
        ("--layer", "1"): "has no embeddings of layer 1, only of 7",
        (
            "--layer",
            "middle",
        ): "--layer: expected auto; or head, spectrum, numbers of layers, or several joined by +",
        (
            "--new",
            old,
        ): "160 utterances are in the gallery and new; divide them with --gallery-splits and --new-",
        ("--gallery", str(tmp_path / "none")): "no scores here",
        ("--out", old): "is an input as well; give it a name of its own",
        ("--protocol", old, "--hold-out", "A1"): "--protocol decides what is in the gallery and what is new",
        ("--neighbours", "0"): "--neighbours",
        ("--trials", str(tmp_path / "x.csv")): "x.csv: does not exist",
    }.items():
        assert run_command("trace", flags(tmp_path, *more)) == 2, more
        (line,) = [
            each for each in capsys.readouterr().err.splitlines() if each.startswith("bonafide trace: ")
        ]
        assert message in line
    assert not (tmp_path / "out").exists()


def test_folders_can_be_on_s3(tmp_path: Path, bucket: str) -> None:
    for name, seed in (("old", 0), ("new", 1)):
        for file in Path(write_scores(tmp_path / name, SYSTEMS, seed=seed)).rglob("*"):
            if file.is_file():
                Folder(f"{bucket}/{name}").commit(str(file.relative_to(tmp_path / name)), file.read_bytes())
    argv = ["--gallery", f"{bucket}/old", "--new", f"{bucket}/new", "--out", f"{bucket}/trace"]
    assert run_command("trace", argv) == 0
    assert Folder(f"{bucket}/trace").exists(layout.TRACE_PAGE)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow")
def test_the_mlflow_run_is_below_the_run_that_made_the_new_scores(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write_scores(tmp_path / "old", SYSTEMS)
    write_scores(tmp_path / "new", [*SYSTEMS, "B1"], seed=1, tracking={"run_id": "1" * 32, "uri": uri})
    assert run_command("trace", flags(tmp_path, "--tracking-uri", uri)) == 0
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("bonafide").experiment_id])
    assert run.data.tags["mlflow.parentRunId"] == "1" * 32
    assert run.data.metrics["trace/macro_f1"] > 0.5
    assert 0 <= run.data.metrics["trace/auroc"] <= 1
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {layout.TRACE_JSON, layout.TRACE_TABLE, layout.TRACE_PAGE, layout.CONFIG} <= names


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys, jobs.trace; "
        "print([name for name in ('torch', 'ray', 'mlflow', 'scipy', 'sklearn') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
