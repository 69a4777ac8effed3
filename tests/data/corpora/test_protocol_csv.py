"""Protocol CSVs: every row becomes an utterance or a problem."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from pipeline.data.corpora.protocol_csv import (
    COLUMNS,
    check_protocol,
    corpus_name,
    describe_protocol,
    read_protocol,
)
from pipeline.data.corpora.utterance import NotAudio, Problem, Utterance, utterance_uid
from pipeline.errors import InputError
from pipeline.storage import Folder

HEADER = (
    "ID,Label,Duration,SampleRate,Path,Attack,Speaker,Proportion,"
    "AudioChannel,AudioEncoding,AudioBitSample,Language\n"
)
# Rows as the reference implementation writes them, with paths that the tests create.
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
    entries = list(read_protocol(manifest, Folder(str(root)), put(root, rows, *files)))
    for file, item in entries:
        if isinstance(item, Utterance):
            assert file is not None and file.name == item.path and file.size == 5
        else:
            assert (file is not None) == (isinstance(item, NotAudio) or item.reason == "unlisted")
    return (
        [item for _, item in entries if isinstance(item, Utterance)],
        [item for _, item in entries if isinstance(item, Problem)],
    )


def row(number: int, **changes: str) -> str:
    cells = dict(zip(COLUMNS, FAKE.strip().split(","), strict=True))
    cells |= {"ID": f"Toy-{number}", "Path": f"$ROOT/demo/{number}.wav"} | changes
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(cells)
    return line.getvalue()


def test_a_row_becomes_an_utterance(tmp_path: Path):
    utterances, problems = read(tmp_path, FAKE + REAL, "demo/LA_E_7583177.wav", "demo/7.wav")
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
def test_published_language_codes_become_ours(code: str, language: str | None, tmp_path: Path):
    utterances, _ = read(tmp_path, row(1, Language=code), "demo/1.wav")
    assert [each.language for each in utterances] == [language]


def test_proportions_become_splits(tmp_path: Path):
    proportions = ("train", "valid", "test", "-")
    rows = "".join(row(number, Proportion=cell) for number, cell in enumerate(proportions))
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
        ({"Path": "$ROOT/demo/\0.wav"}, "unsafe-path"),
        ({"Speaker": "A\0B"}, "malformed-row"),
    ],
)
def test_a_row_that_cannot_be_used_is_reported_with_its_line(
    changes: dict[str, str], reason: str, tmp_path: Path
):
    (tmp_path / "secret.wav").touch()
    utterances, problems = read(tmp_path / "data", row(1) + row(0, **changes), "demo/0.wav", "demo/1.wav")
    assert [each.id for each in utterances] == ["Toy-1"]
    names_a_file = not {"Path"} & set(changes)
    unlisted = [] if names_a_file else [("demo/0.wav", "unlisted")]
    assert [(each.path, each.reason) for each in problems] == [("toy.csv:3", reason), *unlisted]


def test_a_row_with_too_few_or_too_many_cells_is_reported(tmp_path: Path):
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


def test_a_root_without_any_of_the_files_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"none of its files exists below .* the first is demo/1\.wav"):
        read(tmp_path, row(1) + row(2))


def test_a_repeated_row_is_reported_and_its_file_is_read_once(tmp_path: Path):
    utterances, problems = read(tmp_path, row(1) + row(1, Duration="9", SampleRate="8000"), "demo/1.wav")
    assert [each.id for each in utterances] == ["Toy-1"]
    assert [(each.path, each.reason) for each in problems] == [("toy.csv:3", "duplicate-row")]


@pytest.mark.parametrize("changes", [{"Label": "real"}, {"ID": "Toy-7"}, {"Speaker": "-"}])
def test_contradictory_rows_are_reported_and_their_file_is_rejected(changes: dict[str, str], tmp_path: Path):
    utterances, problems = read(tmp_path, row(1) + row(1, **changes) + row(2), "demo/1.wav", "demo/2.wav")
    assert [each.id for each in utterances] == ["Toy-2"]
    assert [(each.path, each.reason) for each in problems] == [
        ("toy.csv:2", "contradictory-row"),
        ("toy.csv:3", "contradictory-row"),
    ]


def test_an_id_of_several_files_is_reported_for_each_of_them(tmp_path: Path):
    rows = row(1) + row(2, ID="Toy-1") + row(3)
    utterances, problems = read(tmp_path, rows, "demo/1.wav", "demo/2.wav", "demo/3.wav")
    assert [each.id for each in utterances] == ["Toy-3"]
    assert [(each.path, each.reason) for each in problems] == [
        ("toy.csv:2", "duplicate-id"),
        ("toy.csv:3", "duplicate-id"),
    ]


def test_rows_in_any_order_are_joined_to_files_in_any_folder(tmp_path: Path):
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
    assert [(each.path, each.reason) for each in problems] == [("a/other.wav", "unlisted")]
    assert {each.id: each.path for each in utterances} == {
        f"Toy-{number}": path for number, path in enumerate(paths)
    }
    assert [each.path for each in utterances] == sorted(paths)


def test_a_table_with_other_columns_is_rejected(tmp_path: Path):
    protocol = tmp_path / "other.csv"
    protocol.write_text(HEADER.replace("Speaker,", "") + FAKE)
    with pytest.raises(InputError, match=r"other\.csv: its columns are ID,.*expected ID,Label,Duration"):
        check_protocol(str(protocol))
    protocol.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"other\.csv: not a table in UTF-8: it is UTF-16"):
        check_protocol(str(protocol))
    with pytest.raises(InputError, match=r"nothing\.csv: no such file"):
        check_protocol(str(tmp_path / "nothing.csv"))


def test_the_corpus_name_is_the_file_name_in_snake_case():
    assert corpus_name("s3://bucket/ASVspoof2019-LA.csv") == "asvspoof2019_la"
    assert corpus_name("train.csv") == "train"
    with pytest.raises(InputError, match="invalid corpus name"):
        describe_protocol("My corpus", role="train", artifact="mixed")


def test_a_protocol_cannot_have_the_name_of_a_manifest(tmp_path: Path):
    protocol = tmp_path / "LJSpeech.csv"
    protocol.write_text(HEADER)
    config = IngestConfig(root=str(tmp_path), store=str(tmp_path), protocol=str(protocol))
    with pytest.raises(InputError, match="a manifest of 'ljspeech'"):
        find_sources(config)


def test_a_protocol_on_s3_lists_files_on_s3(bucket: str):
    folder = Folder(bucket)
    folder.commit("demo/1.wav", b"audio")
    folder.commit("lists/toy.csv", (HEADER + row(1) + row(2)).encode())
    manifest = describe_protocol("toy", role="train", artifact="mixed")
    entries = list(read_protocol(manifest, folder, f"{bucket}/lists/toy.csv"))
    assert [file.name if file else None for file, _ in entries] == ["demo/1.wav", None]
