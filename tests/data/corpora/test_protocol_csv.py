"""Protocol CSVs: every row becomes an utterance or a problem, and what is exported comes back."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from jobs import corpora, train
from jobs.ingestion import building
from jobs.ingestion.cataloging import Cataloger
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from pipeline.config import Names
from pipeline.data.corpora.protocol_csv import (
    COLUMNS,
    check_protocol,
    corpus_name,
    describe_protocol,
    read_protocol,
)
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.corpora.utterance import Problem, Utterance, utterance_uid
from pipeline.data.store.shards import read_summary
from pipeline.data.store.snapshot import Snapshot, commit_snapshot, latest_snapshot, load_utterances
from pipeline.errors import InputError
from pipeline.storage import Folder

HEADER = (
    "ID,Label,Duration,SampleRate,Path,Attack,Speaker,Proportion,"
    "AudioChannel,AudioEncoding,AudioBitSample,Language\n"
)
# As the reference prints it, with a path that exists here.
FAKE = "ASV19LAdemo-LA_E_7583177,fake,2.22,16000,$ROOT/demo/LA_E_7583177.wav,A10,LA_0045,test,1,PCM_S,16,EN\n"
REAL = "FLEURS-YUE_HANT-7,real,1.00,16000,$ROOT//demo/7.wav,bonafide,-,-,1,PCM_S,16,YUE_HANT\n"


def put(root: Path, rows: str, *files: str) -> str:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"audio")
    protocol = root / "toy.csv"
    protocol.parent.mkdir(parents=True, exist_ok=True)
    protocol.write_text(HEADER + rows, encoding="utf-8")
    return str(protocol)


def read(root: Path, rows: str, *files: str) -> tuple[list[Utterance], list[Problem]]:
    manifest = describe_protocol("toy", role="train", artifact="mixed")
    found = list(read_protocol(manifest, Folder(str(root)), put(root, rows, *files)))
    for file, item in found:
        assert (file is None) == isinstance(item, Problem)
        assert file is None or (isinstance(item, Utterance) and file.name == item.path and file.size == 5)
    return (
        [item for _, item in found if isinstance(item, Utterance)],
        [item for _, item in found if isinstance(item, Problem)],
    )


def row(number: int, **changes: str) -> str:
    cells = dict(zip(COLUMNS, FAKE.strip().split(","), strict=True))
    cells |= {"ID": f"Toy-{number}", "Path": f"$ROOT/demo/{number}.wav"} | changes
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(cells)
    return line.getvalue()


def test_a_row_is_an_utterance(tmp_path: Path):
    utterances, problems = read(tmp_path, FAKE + REAL, "demo/LA_E_7583177.wav", "demo/7.wav", "demo/more.wav")
    assert not problems
    bonafide, spoof = utterances
    assert spoof == Utterance(
        uid=utterance_uid("toy", "demo/LA_E_7583177.wav"),
        id="ASV19LAdemo-LA_E_7583177",
        corpus="toy",
        path="demo/LA_E_7583177.wav",
        label="spoof",
        artifact="mixed",
        attack="A10",
        speaker="LA_0045",
        language="en",
        split="test",
    )
    assert (bonafide.label, bonafide.artifact, bonafide.attack) == ("bonafide", None, None)
    assert (bonafide.path, bonafide.speaker, bonafide.split) == ("demo/7.wav", None, None)


@pytest.mark.parametrize(
    ("code", "language"), [("EN", "en"), ("CN", "zh"), ("ZH", "zh"), ("YUE_HANT", "yue"), ("-", None)]
)
def test_published_codes_of_languages_become_ours(code: str, language: str | None, tmp_path: Path):
    utterances, _ = read(tmp_path, row(1, Language=code), "demo/1.wav")
    assert [each.language for each in utterances] == [language]


def test_proportions_become_splits(tmp_path: Path):
    words = ("train", "valid", "test", "-")
    rows = "".join(row(number, Proportion=word) for number, word in enumerate(words))
    utterances, _ = read(tmp_path, rows, *(f"demo/{number}.wav" for number in range(4)))
    assert [each.split for each in utterances] == ["train", "validation", "test", None]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Label": "spoof"}, "unknown-label"),
        ({"Label": ""}, "unknown-label"),
        ({"Proportion": "dev"}, "unknown-split"),
        ({"ID": "-"}, "malformed-row"),
        ({"Path": "", "Duration": "-1"}, "missing"),
        ({"Path": "/etc/passwd"}, "malformed-row"),
        ({"Path": "demo/0.wav"}, "malformed-row"),
        ({"Path": "$ROOT/"}, "unsafe-path"),
        ({"Path": "$ROOT/../secret.wav"}, "unsafe-path"),
        ({"Path": "$ROOT/demo/../../secret.wav"}, "unsafe-path"),
        ({"Path": "$ROOT/demo\\0.wav"}, "unsafe-path"),
    ],
)
def test_a_row_that_cannot_be_used_is_reported_with_its_line(
    changes: dict[str, str], reason: str, tmp_path: Path
):
    (tmp_path / "secret.wav").touch()
    utterances, problems = read(tmp_path / "data", row(1) + row(0, **changes), "demo/0.wav", "demo/1.wav")
    assert [each.id for each in utterances] == ["Toy-1"]
    assert [(each.path, each.reason, each.is_file) for each in problems] == [("toy.csv:3", reason, False)]


def test_a_row_of_another_width_is_reported(tmp_path: Path):
    _, problems = read(tmp_path, row(1) + "Toy-2,fake\n\n" + row(3).strip() + ",more\n", "demo/1.wav")
    assert [(each.path, each.reason) for each in problems] == [
        ("toy.csv:3", "malformed-row"),
        ("toy.csv:5", "malformed-row"),
    ]


def test_a_missing_file_is_reported_by_its_path(tmp_path: Path):
    rows = row(1) + row(2) + row(3, Path="$ROOT/elsewhere/3.wav") + row(4, Path="$ROOT/demo/1.wav/4.wav")
    utterances, problems = read(tmp_path, rows, "demo/1.wav")
    assert [each.id for each in utterances] == ["Toy-1"]
    assert {(each.path, each.reason) for each in problems} == {
        ("demo/2.wav", "missing"),
        ("elsewhere/3.wav", "missing"),
        ("demo/1.wav/4.wav", "missing"),
    }


def test_a_root_without_any_of_the_files_is_the_wrong_root(tmp_path: Path):
    with pytest.raises(InputError, match=r"none of its files is below .* the first is demo/1\.wav"):
        read(tmp_path, row(1) + row(2))


def test_a_row_that_says_the_same_again_is_reported_and_the_file_comes_once(tmp_path: Path):
    utterances, problems = read(tmp_path, row(1) + row(1, Duration="9", SampleRate="8000"), "demo/1.wav")
    assert [each.id for each in utterances] == ["Toy-1"]
    assert [(each.path, each.reason) for each in problems] == [("toy.csv:3", "duplicate-row")]


@pytest.mark.parametrize("changes", [{"Label": "real"}, {"ID": "Toy-7"}, {"Speaker": "-"}])
def test_rows_that_contradict_each_other_give_no_label(changes: dict[str, str], tmp_path: Path):
    utterances, problems = read(tmp_path, row(1) + row(1, **changes) + row(2), "demo/1.wav", "demo/2.wav")
    assert [each.id for each in utterances] == ["Toy-2"]
    assert [(each.path, each.reason) for each in problems] == [
        ("toy.csv:2", "contradictory-row"),
        ("toy.csv:3", "contradictory-row"),
    ]


def test_an_id_that_names_several_files_is_reported_for_each_of_them(tmp_path: Path):
    rows = row(1) + row(2, ID="Toy-1") + row(3)
    utterances, problems = read(tmp_path, rows, "demo/1.wav", "demo/2.wav", "demo/3.wav")
    assert [each.id for each in utterances] == ["Toy-3"]
    assert [(each.path, each.reason) for each in problems] == [
        ("toy.csv:2", "duplicate-id"),
        ("toy.csv:3", "duplicate-id"),
    ]


def test_rows_in_any_order_find_their_files_in_any_folders(tmp_path: Path):
    paths = [
        "0.wav",
        "a.wav",
        "a/1.wav",
        "a-b/1.wav",
        "a/b/c/1.wav",
        "a/z.wav",
        "b/é/1.wav",
        "a/b.wav",
        "a,b/1.wav",
    ]
    rows = [row(number, Path=f"$ROOT/{path}") for number, path in enumerate(paths)]
    random.Random(0).shuffle(rows)
    utterances, problems = read(tmp_path, "".join(rows), *paths, "a/other.wav", "c/other.wav")
    assert not problems
    assert {each.id: each.path for each in utterances} == {
        f"Toy-{number}": path for number, path in enumerate(paths)
    }
    assert [each.path for each in utterances] == sorted(paths)


def test_a_table_of_other_columns_is_refused(tmp_path: Path):
    protocol = tmp_path / "other.csv"
    protocol.write_text(HEADER.replace("Speaker,", "") + FAKE)
    with pytest.raises(InputError, match=r"other\.csv: its columns are ID,.*they must be ID,Label,Duration"):
        check_protocol(str(protocol))
    protocol.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"other\.csv: not a CSV in UTF-8"):
        check_protocol(str(protocol))
    with pytest.raises(InputError, match=r"nothing\.csv: no such protocol"):
        check_protocol(str(tmp_path / "nothing.csv"))


def test_a_corpus_is_named_as_its_file():
    assert corpus_name("s3://bucket/ASVspoof2019-LA.csv") == "asvspoof2019_la"
    assert corpus_name("train.csv") == "train"
    with pytest.raises(InputError, match="no name for a corpus"):
        describe_protocol("My corpus", role="train", artifact="mixed")


def test_a_protocol_does_not_take_the_name_of_a_manifest(tmp_path: Path):
    protocol = tmp_path / "LJSpeech.csv"
    protocol.write_text(HEADER)
    config = IngestConfig(root=str(tmp_path), store=str(tmp_path), protocol=str(protocol))
    with pytest.raises(InputError, match="a manifest of 'ljspeech'"):
        find_sources(config)


def test_a_protocol_on_s3_names_files_on_s3(bucket: str):
    folder = Folder(bucket)
    folder.commit("demo/1.wav", b"audio")
    folder.commit("lists/toy.csv", (HEADER + row(1) + row(2)).encode())
    manifest = describe_protocol("toy", role="train", artifact="mixed")
    found = list(read_protocol(manifest, folder, f"{bucket}/lists/toy.csv"))
    assert [file.name if file else None for file, _ in found] == ["demo/1.wav", None]


# The road through the jobs: what a store exports, another store takes in.


def write_corpora(root: Path) -> None:
    rng = np.random.default_rng(0)

    def clip(path: str, rate: int = 16000) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, rng.uniform(-0.3, 0.3, rng.integers(rate, 2 * rate)), rate)

    lists = "ASVspoof2019-LA/LA/ASVspoof2019_LA_cm_protocols"
    for split, letter, ending in (("train", "T", "trn"), ("dev", "D", "trl"), ("eval", "E", "trl")):
        lines = []
        for number in range(4):
            name = f"LA_{letter}_{number}"
            clip(f"ASVspoof2019-LA/LA/ASVspoof2019_LA_{split}/flac/{name}.flac")
            lines.append(f"LA_000{number} {name} - {'A01 spoof' if number % 2 else '- bonafide'}\n")
        (root / lists).mkdir(parents=True, exist_ok=True)
        (root / lists / f"ASVspoof2019.LA.cm.{split}.{ending}.txt").write_text("".join(lines))
    clip("MLS/mls_dutch/dev/audio/1/2/1_2_3.flac", 22050)
    clip("FLEURS/fleurs-r/data/yue_hant_hk/audio/test/1.wav")


COMMON = ["id", "label", "attack", "speaker", "split", "language", "pcm_sha256"]


def rows_of(store: str, snapshot: Snapshot) -> list[dict[str, object]]:
    found: list[dict[str, object]] = load_utterances(Folder(store), snapshot, COMMON).to_pylist()
    return sorted(found, key=str)


def run_ingest(**flags: Any) -> Snapshot:
    """The ingest job in this process, without the cluster around it."""
    config = IngestConfig(**flags)
    store, sources = Folder(config.store), find_sources(config)
    before = latest_snapshot(store)
    done = []
    for name, source in sources.items():
        cataloger = Cataloger(sources, store)
        table = pa.concat_tables(
            [cataloger.probe_part(name, rows) for rows in cataloger.list_parts(name, earlier="")]
        )
        plan = building.plan_corpus(source.manifest, table, store, before, config)
        for group, shard in enumerate(plan.shards):
            batch: dict[str, Sequence[Any]] = {
                "corpus": [name],
                "shard": [shard.name],
                "catalog": [plan.catalog],
                "group": [group],
            }
            building.build_batch(batch, sources, store, config.resampler)
        summaries = {shard.name: read_summary(store, name, shard.name) for shard in plan.shards}
        done.append(building.corpus_snapshot(source.manifest, plan, summaries))
    return commit_snapshot(store, done)


def test_what_is_exported_comes_back_and_what_is_excluded_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root, first, second = (str(tmp_path / name) for name in ("data", "first", "second"))
    write_corpora(tmp_path / "data")
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'name = "small"\ncorpora = ["asvspoof2019_la", "mls", "fleurs_r", "decro"]\n'
        'excluded = ["asvspoof2019_la/test"]\n'
    )
    part = run_ingest(root=root, store=first, recipe=str(recipe))
    assert "DECRO" in capsys.readouterr().out
    asvspoof = part.corpora["asvspoof2019_la"]
    assert (asvspoof.found, asvspoof.written, asvspoof.rejected) == (12, 8, {})
    assert asvspoof.excluded == {"excluded-test": 4}
    with pytest.raises(InputError, match="needs asvspoof2019_la/test"):
        train.check_exclusions(Recipe(), part)
    train.check_exclusions(load_recipe(str(recipe)), part)

    whole = run_ingest(root=root, store=first, corpora=Names(["asvspoof2019_la"]))
    grown = whole.corpora["asvspoof2019_la"]
    assert (grown.found, grown.written, grown.excluded) == (12, 12, {})
    assert {shard.name for shard in asvspoof.shards} < {shard.name for shard in grown.shards}

    protocol = str(tmp_path / "exported.csv")
    corpora.main(corpora.CorporaConfig(store=first, export_protocol=protocol))
    back = run_ingest(root=root, store=second, protocol=protocol)
    assert list(back.corpora) == ["exported"]
    assert (back.corpora["exported"].found, back.corpora["exported"].written) == (14, 14)
    assert rows_of(second, back) == rows_of(first, whole)
    with Path(protocol).open(newline="") as file:
        cells = {line["ID"]: line for line in csv.DictReader(file)}
    info = soundfile.info(str(tmp_path / "data" / "MLS/mls_dutch/dev/audio/1/2/1_2_3.flac"))
    assert cells["MLS-NL-1_2_3"] == {
        "ID": "MLS-NL-1_2_3",
        "Label": "real",
        "Duration": f"{info.duration:.2f}",
        "SampleRate": "22050",
        "Path": "$ROOT/MLS/mls_dutch/dev/audio/1/2/1_2_3.flac",
        "Attack": "-",
        "Speaker": "1",
        "Proportion": "valid",
        "AudioChannel": "1",
        "AudioEncoding": "FLAC",
        "AudioBitSample": "16",
        "Language": "NL",
    }
    assert cells["FLEURS-R-YUE_HANT-1"]["Path"] == "$ROOT/FLEURS/fleurs-r/data/yue_hant_hk/audio/test/1.wav"
    assert cells["FLEURS-R-YUE_HANT-1"]["Language"] == "YUE"
    assert cells["FLEURS-R-YUE_HANT-1"]["AudioEncoding"] == "PCM_S"
    assert cells["ASV19LA-LA_T_1"]["Attack"] == "A01"


def test_segments_are_left_out_of_an_export_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recordings = tmp_path / "data" / "DeepVoice" / "KAGGLE" / "AUDIO" / "FAKE"
    recordings.mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 40000)
    soundfile.write(recordings / "biden-to-taylor.wav", noise, 16000)
    (tmp_path / "data" / "DeepVoice" / "DeepVoice_seg_log.txt").write_text(
        "Audio: biden-to-taylor_seg_1, start at: 0, end at: 24000\n"
        "Audio: biden-to-taylor_seg_2, start at: 16000, end at: 40000\n"
    )
    store, protocol = str(tmp_path / "store"), tmp_path / "exported.csv"
    snapshot = run_ingest(root=str(tmp_path / "data"), store=store)
    assert snapshot.corpora["deepvoice"].written == 2
    corpora.main(corpora.CorporaConfig(store=store, export_protocol=str(protocol)))
    assert "left out: 2 segments of deepvoice" in capsys.readouterr().out
    assert protocol.read_text() == HEADER
