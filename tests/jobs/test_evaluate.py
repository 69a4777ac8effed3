"""`bonafide evaluate`: from SCORES folders to the report, the printed table and MLflow runs."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.evaluate import EvaluateConfig, main
from pipeline import tracking
from pipeline.config import parse, run
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import fit
from pipeline.evaluation.scores import load_scores
from pipeline.fields import Names
from pipeline.storage import Folder
from tests.evaluation.simulated import write_embeddings, write_spliced, write_system


def write_scores(
    folder: Path, system: str, skill: float, run_id: str | None = None, policy: str = "whole"
) -> str:
    rng = np.random.default_rng(7)
    num = 40
    label = ["bonafide"] * num + ["spoof"] * num
    score = np.concatenate((rng.normal(skill, 1, num), rng.normal(-skill, 1, num))).astype(np.float32)
    for corpus in ("in_the_wild", "mlaad"):
        uid = [f"{corpus}{position:03d}" for position in range(2 * num)]
        table = pa.table(
            {
                "uid": uid,
                "corpus": [corpus] * (2 * num),
                "label": label,
                "artifact": pa.array([None] * num + ["tts"] * num, pa.string()),
                "attack": pa.array([None] * num + ["bark", "vits"] * (num // 2), pa.string()),
                "language": ["en", "de"] * num,
                "score": score,
            }
        )
        path = folder / "scores" / f"{corpus}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    record = {
        "system": system,
        "checkpoint": f"runs/{system}/model.safetensors",
        "weights_digest": "0123456789ab",
        "snapshot": "000001",
        "policy": policy,
        "num_utterances": 4 * num,
        "num_rejected": 0,
        "tracking": {"run_id": run_id, "uri": ""},
    }
    (folder / "scores.json").write_text(json.dumps(record))
    return str(folder)


def two_systems(folder: Path) -> Names:
    return Names((write_scores(folder / "u", "untrained", 0.0), write_scores(folder / "t", "trained", 2.0)))


def test_the_report_has_metrics_curves_and_identities(tmp_path, capsys):
    config = EvaluateConfig(two_systems(tmp_path), str(tmp_path / "report"), num_bootstrap=20)
    main(config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["EER", "(%)", "untrained", "trained"]
    assert [line.split()[0] for line in lines[1:5]] == ["in_the_wild", "mlaad", "mean", "pooled"]
    assert f"report: {tmp_path}/report/report.html" in lines

    report = json.loads((tmp_path / "report" / "metrics.json").read_bytes())
    trained = report["metrics"]["trained"]["in_the_wild"]["all"]["all"]
    assert trained["eer"] < 0.1 < report["metrics"]["untrained"]["in_the_wild"]["all"]["all"]["eer"]
    assert trained["num_bonafide"] == 40
    assert lines[1].split()[2] == f"{100 * trained['eer']:.2f}"
    assert report["systems"]["trained"]["weights_digest"] == "0123456789ab"

    table = pq.read_table(tmp_path / "report" / "metrics.parquet")
    names = ["system", "corpus", "group", "key", "metric", "value", "low", "high"]
    assert table.column_names == [*names, "num_bonafide", "num_spoof", "num_clusters"]
    html = (tmp_path / "report" / "report.html").read_text()
    for text in ("untrained", "bark", "0123456789ab", "runs/trained/model.safetensors", "DET: mlaad"):
        assert text in html


def test_a_folder_of_several_window_policies_is_one_system_for_each(tmp_path, capsys):
    outs = [tmp_path / "runs" / name for name in ("one", "two")]
    for out in outs:
        for policy, skill in (("window:4:mean", 0.5), ("whole", 2.0)):
            folder = out / layout.policy_folder(policy)
            write_scores(folder, f"detector · {policy}", skill, policy=policy)
            Folder(str(out)).commit(layout.policy_marker(policy), policy.encode())
    for scores in (outs[:1], outs):
        main(EvaluateConfig(Names(map(str, scores)), str(tmp_path / "report"), num_bootstrap=2))
    printed = capsys.readouterr()
    one, two = (line for line in printed.out.splitlines() if "EER (%)" in line)
    assert re.findall(r"detector · \S+(?: \(\w+\))?", one) == ["detector · whole", "detector · window:4:mean"]
    assert re.findall(r"detector · \S+(?: \(\w+\))?", two) == [
        f"detector · {policy} ({out.name})" for out in outs for policy in ("whole", "window:4:mean")
    ]
    assert (
        "detector · whole and detector · window:4:mean differ in the window that is scored: whole and window:4:mean"
        in printed.err
    )


def test_the_saved_config_reproduces_the_run(tmp_path):
    config = EvaluateConfig(two_systems(tmp_path), str(tmp_path / "report"), "arena", num_bootstrap=20)
    main(config)
    saved = str(tmp_path / "report" / "config.toml")
    assert parse(EvaluateConfig, ["--config", saved], command="evaluate") == config


def test_the_same_scores_give_the_same_report(tmp_path):
    scores = two_systems(tmp_path)
    for name in ("one", "two"):
        main(EvaluateConfig(scores, str(tmp_path / name), num_bootstrap=20))
    for name in ("metrics.json", "metrics.parquet", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_scores_and_report_can_be_on_s3(tmp_path, bucket):
    local = Path(write_scores(tmp_path / "t", "trained", 2.0))
    remote = Folder(f"{bucket}/scores")
    for path in local.rglob("*.*"):
        remote.commit(path.relative_to(local).as_posix(), path.read_bytes())
    main(EvaluateConfig(Names((remote.uri,)), f"{bucket}/report", num_bootstrap=20))
    table = pq.read_table(BytesIO(Folder(f"{bucket}/report").read("metrics.parquet")))
    assert set(table["system"].to_pylist()) == {"trained"}


def test_a_user_error_is_one_line(tmp_path, capsys):
    assert run(main, ["--scores", str(tmp_path / "nowhere"), "--out", str(tmp_path / "report")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "nowhere" in message and "bonafide score" in message
    assert not (tmp_path / "report").exists()
    assert run(main, ["--scores", "", "--out", str(tmp_path / "report")]) == 2
    assert run(main, ["--scores", "x", "--out", "y", "--definition", "mine"]) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow")
def test_each_system_has_an_mlflow_run_below_the_run_that_made_its_scores(tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parents = {"untrained": "0" * 32, "xlsr (300m)": "1" * 32}
    scores = Names(
        write_scores(tmp_path / str(number), system, 2.0 * number, run_id=parent)
        for number, (system, parent) in enumerate(parents.items())
    )
    main(EvaluateConfig(scores, str(tmp_path / "report"), num_bootstrap=20, tracking_uri=uri))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bonafide")
    runs = {run.data.tags["bonafide.system"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {system: run.data.tags["mlflow.parentRunId"] for system, run in runs.items()} == parents
    tracked = runs["xlsr (300m)"]
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["bonafide.weights"] == "0123456789ab"
    assert tracked.data.tags["bonafide.compared_with"] == "untrained"
    assert tracked.data.metrics["eer/in_the_wild"] < 0.1 < runs["untrained"].data.metrics["eer/in_the_wild"]
    assert runs["untrained"].data.metrics.keys() == tracked.data.metrics.keys()
    assert "| in_the_wild | " in tracked.data.tags["mlflow.note.content"]
    names = {artifact.path for artifact in client.list_artifacts(tracked.info.run_id)}
    assert {"report.html", "metrics.json", "metrics.parquet", "config.toml"} <= names


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow")
def test_error_rates_of_its_result_are_logged_to_the_training_and_to_the_registered_model(tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    weights = {"bonafide.weights": "0123456789ab", "bonafide.initial_weights": "fedcba987654"}
    with tracking.run(uri, "bonafide", job="train", name="t", tags=weights) as training:
        training.log_metrics({"validation/eer": 0.1}, step=10)
    tags = {"weights": "0123456789ab", "error": 0.1, "validation": "v"}
    tracking.register(uri, "tiny", "s3://bucket/x", run_id=str(training.run_id), tags=tags, description="")
    changes = {
        "trained": {},
        "windows": {"policy": "window:4:mean", "precision": "bf16"},
        "untrained": {"weights_digest": "fedcba987654"},
        "another step": {"weights_digest": "fedcba000000"},
    }
    scores = Names(
        write_scores(tmp_path / str(number), system, 2.0 - number / 2)
        for number, system in enumerate(changes)
    )
    for folder, change in zip(scores, changes.values(), strict=True):
        record = Path(folder) / "scores.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | change))
    report = EvaluateConfig(scores, str(tmp_path / "report"), num_bootstrap=20, tracking_uri=uri)
    main(report)
    rates = json.loads((tmp_path / "report" / "metrics.json").read_bytes())["metrics"]
    client = MlflowClient(uri)
    stored = client.get_run(str(training.run_id))
    assert stored.data.metrics == {"validation/eer": 0.1} | {
        f"{metric}{suffix}/{corpus}": pytest.approx(rates[system][corpus]["all"]["all"][metric])
        for system, suffix in {"trained": "", "windows": " window_4_mean bf16"}.items()
        for metric in ("eer", "min_dcf")
        for corpus in ("in_the_wild", "mlaad")
    }
    main(replace(report, scores=Names(scores[:1]), definition="arena", recipe="leakage_free"))
    new = client.get_run(str(training.run_id)).data.metrics.keys() - stored.data.metrics.keys()
    assert new == {
        f"{metric} arena leakage_free/{corpus}"
        for metric in ("eer", "min_dcf")
        for corpus in ("in_the_wild", "mlaad")
    }
    (model,) = client.search_logged_models([client.get_run(str(training.run_id)).info.experiment_id])
    assert model.status == "READY"
    measured = {metric.key: metric.value for metric in model.metrics}
    assert measured["eer/mlaad"] < 0.1
    assert "eer_low/mlaad" not in measured


def test_scores_without_labels_are_an_error(tmp_path):
    scores = write_scores(tmp_path / "s", "trained", 1.0)
    record = tmp_path / "s" / "scores.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"audio": "/calls"}))
    with pytest.raises(InputError, match="have no labels; to measure error rates, write a manifest"):
        main(EvaluateConfig(Names([scores]), str(tmp_path / "report")))


def test_help_imports_no_heavy_library():
    code = (
        "import sys, jobs.evaluate; "
        "print([name for name in ('torch', 'ray', 'mlflow', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_recipe_decides_which_artifacts_count_as_spoof(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", "trained", 2.0)
    for path in (tmp_path / "scores" / "scores").glob("*.parquet"):
        table = pq.read_table(path)
        artifact = [
            "vocoder" if attack == "bark" else each
            for attack, each in zip(table["attack"].to_pylist(), table["artifact"].to_pylist(), strict=True)
        ]
        column = table.column_names.index("artifact")
        pq.write_table(table.set_column(column, "artifact", pa.array(artifact, pa.string())), path)
    reports = {}
    for recipe in ("", "copy_synthesis_bonafide"):
        out = tmp_path / f"report {recipe}"
        main(EvaluateConfig(Names([scores]), str(out), recipe=recipe, num_bootstrap=2))
        reports[recipe] = json.loads((out / "metrics.json").read_bytes())
    counts = {
        recipe: [
            report["metrics"]["trained"]["mlaad"]["all"]["all"][f"num_{label}"]
            for label in ("bonafide", "spoof")
        ]
        for recipe, report in reports.items()
    }
    assert counts == {"": [40, 40], "copy_synthesis_bonafide": [60, 20]}
    assert set(reports["copy_synthesis_bonafide"]["metrics"]["trained"]["mlaad"]["attack"]) == {"vits"}
    assert any(
        "vocoder, codec count as bona fide" in line for line in reports["copy_synthesis_bonafide"]["warnings"]
    )


def test_embeddings_of_a_layer_are_drawn_and_their_purities_are_metrics(tmp_path, capsys):
    folders = [
        write_embeddings(
            write_system(tmp_path / name, system=name, num_utterances=60),
            label=label,
            corpus=2,
            layers=layers,
        )
        for name, label, layers in (("untrained", 0.2, ["head", "4"]), ("trained", 5, ["4"]))
    ]
    out = tmp_path / "report"
    flags = ["--scores", ",".join(map(str, folders)), "--out", str(out), "--num-bootstrap", "20"]
    assert run(main, [*flags, "--layer", "7"]) == 2
    assert capsys.readouterr().err == (
        "bonafide evaluate: --layer 7: no system has embeddings of this layer; they have head, 4\n"
    )
    assert not out.exists()
    assert run(main, [*flags, "--layer", "4", "--perplexity", "8", "--max-points", "100"]) == 0
    assert (
        "warning: untrained: its embeddings tell the corpus better than the label" in capsys.readouterr().err
    )
    page, report = (
        (out / layout.REPORT_PAGE).read_text(),
        json.loads((out / layout.METRICS_JSON).read_bytes()),
    )
    assert "Embeddings of 100 utterances, layer 4" in page and "t-SNE, perplexity 8" in page
    purity = {
        system: metrics["pooled"]["embeddings"]["4"]["label_purity"]
        for system, metrics in report["metrics"].items()
    }
    assert purity["untrained"] < 0.7 < 0.9 < purity["trained"]
    assert run(main, flags) == 0
    assert "trained has no embeddings of layer head" in (out / layout.REPORT_PAGE).read_text()


def test_claims_decide_the_exit_status_and_the_same_claims_give_the_same_lines(tmp_path, capsys):
    scores = write_system(tmp_path / "s", system="detector")
    claims = tmp_path / "claims.toml"
    limit = "[[claim]]\nmetric = 'eer'\ncorpus = 'alpha'\nbelow = {}\n"
    flags = ["--scores", str(scores), "--num-bootstrap", "50", "--check", str(claims), "--out"]
    claims.write_text(limit.format(0.5))
    assert run(main, [*flags, str(tmp_path / "one")]) == 0
    assert f"{claims}:1: holds: eer of detector on alpha is " in capsys.readouterr().out
    claims.write_text(limit.format(0.5) + limit.format(0.001))
    outputs = []
    for name in ("two", "three"):
        assert run(main, [*flags, str(tmp_path / name)]) == 2
        outputs.append(capsys.readouterr())
    assert outputs[0].err == outputs[1].err
    assert re.search(
        rf"{claims}:5: FAILS: eer of detector on alpha is [\d.]+ % \(95 % interval [\d.]+ % to [\d.]+ %\), from 300 "
        r"bona fide and 300 spoof utterances of 30 speakers; claimed: it is below 0\.10 %",
        outputs[0].err,
    )
    assert "1 of 2 claims fail" in outputs[0].err
    verdicts = json.loads((tmp_path / "two" / "metrics.json").read_bytes())["claims"]
    assert [verdict["holds"] for verdict in verdicts] == [True, False]


def test_claims_that_cannot_be_read_end_the_command_before_anything_is_written(tmp_path, capsys):
    scores = write_system(tmp_path / "s")
    flags = ["--scores", str(scores), "--out", str(tmp_path / "report"), "--check"]
    for name, message in (
        ("nowhere.toml", "no such file of claims"),
        ("antideepfak", "did you mean antideepfake"),
    ):
        assert run(main, [*flags, name]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_calibration_is_applied_to_the_systems_that_it_was_fitted_for(tmp_path, capsys):
    one, two = (
        write_system(tmp_path / name, system=name, seed=seed) for seed, name in enumerate(("one", "two"))
    )
    file = tmp_path / "one.json"
    file.write_text(fit(load_scores(Folder(str(one))), 0.5, llr=0.0).to_json())
    flags = ["--num-bootstrap", "20", "--out", str(tmp_path / "report"), "--calibration", str(file)]
    assert run(main, ["--scores", f"{one},{two}", *flags]) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_bytes())["metrics"]
    costs = {system: metrics[system]["alpha"]["all"]["all"]["calibrated_cllr"] for system in ("one", "two")}
    assert costs["one"] < 1 and costs["two"] is None
    capsys.readouterr()
    assert run(main, ["--scores", str(two), *flags]) == 2
    assert f"{file}: the calibration is for the weights {0:016x}, and these are" in capsys.readouterr().err


def test_flags_of_frames_reach_the_report_and_missing_frames_are_one_line(tmp_path, capsys):
    scores = write_spliced(tmp_path / "spliced", noise=3.0)
    flags = [
        "--scores",
        str(tmp_path / "spliced"),
        "--out",
        str(tmp_path / "report"),
        "--num-bootstrap",
        "20",
    ]
    main(parse(EvaluateConfig, [*flags, "--smoothing", "0", "--non-speech", "bonafide"], command="evaluate"))
    report = json.loads((tmp_path / "report" / layout.METRICS_JSON).read_bytes())
    assert report["metrics"]["tiny"]["alpha"]["frames"]["non_speech_bonafide"]["range_eer"] > 0.1
    assert "Frames are not smoothed" in (tmp_path / "report" / layout.REPORT_PAGE).read_text()
    capsys.readouterr()
    (tmp_path / "spliced" / layout.frames_name(1)).unlink()
    assert run(main, [*flags[:3], str(tmp_path / "other")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{scores.location(layout.frames_name(1))} is missing; score into an empty folder")
    assert not (tmp_path / "other").exists()
