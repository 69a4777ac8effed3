"""An ingest says which classes it lost: first in its report, in its exit status, in the snapshot and in the metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import ingest
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.reporting import (
    MAX_LOSS_METRICS,
    log_to_mlflow,
    loss_warnings,
    print_corpus,
    print_summary,
)
from pipeline import tracking
from pipeline.data.store.losses import ClassCounts
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot, load_snapshot
from pipeline.fields import Names
from pipeline.storage import Folder
from tests.corpora import write_asvspoof2019_la, write_in_the_wild

LOSSES = (
    ClassCounts("label", "bonafide", 100, 99, 0, {"silent": 1}),
    ClassCounts("label", "spoof", 100, 96, 0, {"truncated": 4}),
    ClassCounts("attack", "A07", 4, 0, 0, {"truncated": 4}),
)


def corpus(name: str = "toy", **changes: Any) -> CorpusSnapshot:
    entry = CorpusSnapshot(
        name, "train", "", None, "", "", 200, {"silent": 1, "truncated": 4}, {}, {}, losses=LOSSES
    )
    return replace(entry, **changes)


def snapshot(*corpora: CorpusSnapshot) -> Snapshot:
    return Snapshot(1, "2026-01-01T00:00:00+00:00", {corpus.name: corpus for corpus in corpora})


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_an_attack_that_is_gone_is_named_first_and_one_percent_of_everything_is_not(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_asvspoof2019_la(tmp_path / "data", seconds=0.2)
    write_in_the_wild(tmp_path / "data", count=100, seconds=0.1)
    clips = tmp_path / "data" / "In-the-Wild" / "release_in_the_wild"
    (clips / "7.wav").write_bytes(b"<html>not found</html>" * 50)
    protocol = next((tmp_path / "data").rglob("ASVspoof2019.LA.cm.train.trn.txt"))
    lines = protocol.read_text().splitlines()
    for number in (1, 2, 4, 5):
        lines[number] = lines[number].rpartition(" - ")[0] + " - A07 spoof"
        audio = next((tmp_path / "data").rglob(f"{lines[number].split()[1]}.flac"))
        audio.write_bytes(audio.read_bytes()[:900])
    protocol.write_text("\n".join(lines) + "\n")
    store = Folder(str(tmp_path / "store"))
    config = IngestConfig(str(tmp_path / "data"), store.uri)
    assert ingest.main(config) == 1
    report = capsys.readouterr().out.partition("warning: ")[2].splitlines()
    assert report[0].startswith("asvspoof2019_la lost all 4 utterances of attack A07 (truncated); 4 of ")
    assert report[1].startswith("snapshot 000001 (")
    assert "    lost by label: 1 of 50 bonafide, 0 of 50 spoof" in report
    corpora = load_snapshot(store).corpora
    gone = [counts for counts in corpora["asvspoof2019_la"].losses if not counts.written]
    assert gone == [ClassCounts("attack", "A07", 4, 0, 0, {"truncated": 4})]
    wild = replace(config, corpora=Names(["in_the_wild"]))
    assert ingest.main(wild) == 0
    assert "\nwarning: " not in capsys.readouterr().out


def test_only_the_ingested_corpora_are_named_first(capsys: pytest.CaptureFixture[str]):
    print_summary(snapshot(corpus("a"), corpus("b")), ["b"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "warning: b lost all 4 utterances of attack A07 (truncated)"
    assert lines[1].startswith("snapshot 000001")
    assert lines[2].startswith("  a: 200 found")
    assert sum("lost all" in line for line in lines) == 1


def test_the_flag_decides_how_large_a_loss_is_named():
    assert loss_warnings([corpus()], 0.03) == [
        "toy lost all 4 utterances of attack A07 (truncated); 4 of 100 spoof utterances (truncated)"
    ]
    assert loss_warnings([corpus(losses=LOSSES[:2])], 0.05) == []


def test_files_that_are_not_audio_are_counted_by_kind(capsys: pytest.CaptureFixture[str]):
    print_corpus(corpus(not_audio={".txt": 8, ".json": 1, "hidden": 3}))
    assert "    12 files are not audio: 8 .txt, 3 hidden, 1 .json" in capsys.readouterr().out.splitlines()


def test_a_corpus_that_lost_everything_is_reported(capsys: pytest.CaptureFixture[str]):
    gone = tuple(replace(counts, written=0, reasons={"missing": counts.found}) for counts in LOSSES)
    print_summary(snapshot(corpus(losses=gone, rejected={"missing": 200})), ["toy"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "warning: toy lost all 200 utterances (missing)"
    assert "    lost by label: 100 of 100 bonafide, 100 of 100 spoof" in lines


def test_losses_of_unknown_label_are_told_beside_those_of_the_labels(capsys: pytest.CaptureFixture[str]):
    unknown = ClassCounts("label", "unknown", 7, 0, 0, {"unknown-label": 7})
    print_corpus(corpus(losses=(*LOSSES[:2], unknown)))
    expected = "    lost by label: 1 of 100 bonafide, 4 of 100 spoof, 7 of unknown label"
    assert expected in capsys.readouterr().out.splitlines()


def test_metrics_have_every_label_and_only_the_worst_of_the_other_classes(tmp_path: Path):
    attacks = [ClassCounts("attack", f"B/{number}=é", 9, 0, 0, {"empty": 9}) for number in range(100)]
    mild = ClassCounts("language", "en", 500, 499, 0, {"silent": 1})
    unknown = ClassCounts("label", "unknown", 50, 0, 0, {"unknown-label": 50})
    toy = corpus(losses=(*LOSSES, unknown, *attacks, mild))
    config = IngestConfig("DATA", str(tmp_path))
    with tracking.run("", "", job="ingest", name="", metrics_file=tmp_path / "metrics.jsonl") as run:
        log_to_mlflow(run, Folder(str(tmp_path)), snapshot(toy), config)
    logged = json.loads((tmp_path / "metrics.jsonl").read_text())
    lost = {name: value for name, value in logged.items() if name.startswith("lost_share/")}
    assert lost["lost_share/toy/label/bonafide"] == 0.01
    assert lost["lost_share/toy/label/spoof"] == 0.04
    assert lost["lost_share/toy/label/unknown"] == 0.2
    assert lost["lost_share/toy/attack/B_10_é"] == 1.0
    assert "lost_share/toy/language/en" not in lost
    assert len(lost) == 2 + MAX_LOSS_METRICS
