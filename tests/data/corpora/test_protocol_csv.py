"""Protocol CSVs: every row becomes an utterance or a problem."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from pipeline.data.corpora.csv_rows import COLUMNS
from pipeline.data.corpora.protocol_csv import check_protocol, corpus_name, describe_protocol, read_protocol
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
    config = IngestConfig(root=str(tmp_path), store=str(tmp_path / "store"), protocol=str(protocol))
    with pytest.raises(InputError, match="a manifest of 'ljspeech'"):
        find_sources(config)


def test_a_protocol_on_s3_lists_files_on_s3(bucket: str):
    folder = Folder(bucket)
    folder.commit("demo/1.wav", b"audio")
    folder.commit("lists/toy.csv", (HEADER + row(1) + row(2)).encode())
    manifest = describe_protocol("toy", role="train", artifact="mixed")
    entries = list(read_protocol(manifest, folder, f"{bucket}/lists/toy.csv"))
    assert [file.name if file else None for file, _ in entries] == ["demo/1.wav", None]


def put_raw(root: Path, content: str | bytes, *files: str) -> str:
    protocol = put(root, "", *files)
    Path(protocol).write_bytes(content if isinstance(content, bytes) else content.encode())
    return protocol


def entries_of(root: Path, protocol: str) -> list[tuple[str, str, str | None]]:
    """Path, reason or label, and label of everything read."""
    manifest = describe_protocol("toy", role="train", artifact="mixed")
    return [
        (item.path, item.reason, item.label)
        if isinstance(item, Problem)
        else (item.path, item.kind, None)
        if isinstance(item, NotAudio)
        else (item.path, "utterance", item.label)
        for _, item in read_protocol(manifest, Folder(str(root)), protocol)
    ]


def test_a_stray_quote_moves_no_label_and_swallows_no_row(tmp_path: Path):
    rows = (
        row(0) + row(1).replace("LA_0045", '"Alec') + row(2, Label="real") + row(3).replace("LA_0045", 'Eve"')
    )
    protocol = put(tmp_path, rows, *(f"demo/{number}.wav" for number in range(4)))
    assert entries_of(tmp_path, protocol) == [
        ("toy.csv:3", "malformed-row", None),
        ("toy.csv:5", "malformed-row", None),
        ("demo/0.wav", "utterance", "spoof"),
        ("demo/1.wav", "unlisted", None),
        ("demo/2.wav", "utterance", "bonafide"),
        ("demo/3.wav", "unlisted", None),
    ]


def test_a_malformed_row_says_line_found_and_expected(tmp_path: Path):
    rows = row(1) + "Toy-2,fake\n" + HEADER + row(3, Speaker="A\0B")
    _, problems = read(tmp_path, rows, "demo/1.wav")
    assert [(each.path, each.detail) for each in problems] == [
        ("toy.csv:3", f"found 2 columns in 'Toy-2,fake'; expected 12 columns: {', '.join(COLUMNS)}"),
        (
            "toy.csv:4",
            f"found the header again in {HEADER.strip()[:79] + '…'!r}; expected 12 columns: "
            + ", ".join(COLUMNS),
        ),
        ("toy.csv:5", problems[2].detail),
    ]
    assert problems[2].detail.startswith("found a NUL in 'Toy-3,fake")


@pytest.mark.parametrize(
    ("changes", "reason", "label", "attack", "language"),
    [
        ({"Label": "Fake"}, "unknown-label", None, "A10", "en"),
        ({"Proportion": "dev"}, "unknown-split", "spoof", "A10", "en"),
        ({"ID": "-"}, "malformed-row", "spoof", "A10", "en"),
        ({"Path": ""}, "missing", "spoof", "A10", "en"),
        ({"Path": "$ROOT/demo/none.wav", "Language": "CN"}, "missing", "spoof", "A10", "zh"),
        ({"Path": "$ROOT/../x.wav", "Label": "real"}, "unsafe-path", "bonafide", None, "en"),
        ({"Speaker": "x", "Path": "$ROOT/demo/1.wav", "ID": "Toy-1"}, "contradictory-row", "spoof", "A10", "en"),
        ({"Path": "$ROOT/demo/1.wav", "ID": "Toy-1"}, "duplicate-row", "spoof", "A10", "en"),
        ({"Path": "$ROOT/demo/2.wav", "ID": "Toy-1"}, "duplicate-id", "spoof", "A10", "en"),
    ],
)  # fmt: skip
def test_what_a_row_loses_has_the_class_of_the_row(
    changes: dict[str, str], reason: str, label: str | None, attack: str | None, language: str, tmp_path: Path
):
    _, problems = read(
        tmp_path, row(1) + row(0, **changes) + row(5), "demo/1.wav", "demo/2.wav", "demo/5.wav"
    )
    last = [each for each in problems if each.reason != "unlisted"][-1]
    assert (last.reason, last.label, last.attack, last.language) == (reason, label, attack, language)
    assert last.artifact == ("mixed" if label == "spoof" else None)


def test_files_without_a_row_are_reported_in_the_folders_that_rows_name(tmp_path: Path):
    rows = row(1) + row(2, Path="$ROOT/b/2.wav") + row(3, Path="$ROOT/b/c/3.wav")
    files = ("demo/1.wav", "demo/more.wav", "demo/more.FLAC", "demo/a.txt", "demo/README", "demo/deep/x.wav")
    protocol = put(tmp_path, rows, *files, "b/2.wav", "b/x/y.wav", "b/c/3.wav", "b/c/4.mp3", "other/z.wav")
    assert entries_of(tmp_path, protocol) == [
        ("b/2.wav", "utterance", "spoof"),
        ("b/c/3.wav", "utterance", "spoof"),
        ("b/c/4.mp3", "unlisted", None),
        ("demo/1.wav", "utterance", "spoof"),
        ("demo/README", "no ending", None),
        ("demo/a.txt", ".txt", None),
        ("demo/more.FLAC", "unlisted", None),
        ("demo/more.wav", "unlisted", None),
    ]


@pytest.mark.parametrize(
    "rows", [row(1, Label="?"), row(1, Proportion="dev"), row(1, ID="-"), row(1) + row(1)]
)
def test_a_file_whose_row_cannot_be_used_is_not_unlisted_as_well(rows: str, tmp_path: Path):
    _, problems = read(tmp_path, rows + row(2), "demo/1.wav", "demo/2.wav")
    assert [each.path for each in problems] == ["toy.csv:3" if rows.count("\n") == 2 else "toy.csv:2"]


def test_a_missing_file_with_another_ending_on_disk_is_named(tmp_path: Path):
    rows = row(1) + row(2) + row(3, Path="$ROOT/demo/é.wav")
    _, problems = read(tmp_path, rows, "demo/1.wav", "demo/2.flac", "demo/e\u0301.mp3")
    details = {each.path: each.detail for each in problems if each.reason == "missing"}
    assert details == {
        "demo/2.wav": "listed in the protocol, but the file does not exist; on disk is demo/2.flac",
        "demo/é.wav": "listed in the protocol, but the file does not exist; on disk is demo/e\u0301.mp3",
    }
    with pytest.raises(
        InputError, match=r"none of its files exists .* demo/4\.wav; on disk is demo/4\.mp3; set"
    ):
        read(tmp_path / "other", row(4), "demo/4.mp3")


@pytest.mark.parametrize(
    ("in_table", "on_disk"),
    [
        ("d/é.wav", "d/e\u0301.wav"),
        ("d/e\u0301.wav", "d/é.wav"),
        ("é/a.wav", "e\u0301/a.wav"),
        ("e\u0301/a.wav", "é/a.wav"),
        ("é/ü/é.wav", "e\u0301/u\u0308/e\u0301.wav"),
    ],
)
def test_a_row_joins_a_file_whose_name_has_another_unicode_form(in_table: str, on_disk: str, tmp_path: Path):
    for others in ("", row(1)):
        rows = row(2, Path=f"$ROOT/{in_table}") + others
        utterances, problems = read(tmp_path, rows, on_disk, "demo/1.wav")
        assert sorted(each.path for each in utterances) == sorted(
            [on_disk, *(["demo/1.wav"] if others else [])]
        )
        assert problems == []
        assert utterances[-1].uid == utterance_uid("toy", on_disk)


def test_files_that_differ_only_in_their_unicode_form_are_told_apart(tmp_path: Path):
    composed, decomposed = "d/é.wav", "d/e\u0301.wav"
    both = row(1, Path=f"$ROOT/{composed}") + row(2, Path=f"$ROOT/{decomposed}", Label="real")
    utterances, problems = read(tmp_path, both, composed, decomposed)
    assert {each.path: each.label for each in utterances} == {composed: "spoof", decomposed: "bonafide"}
    assert problems == []
    for listed, other in ((composed, decomposed), (decomposed, composed)):
        utterances, problems = read(tmp_path, row(1, Path=f"$ROOT/{listed}"), composed, decomposed)
        assert [each.path for each in utterances] == [listed]
        assert [(each.path, each.reason) for each in problems] == [(other, "unlisted")]


@pytest.mark.parametrize("name", [r"a\b.wav", "a'b.wav", 'a"b.wav', "a,b.wav", "a b.wav", "a\u2028b.wav"])
def test_odd_but_legal_names_join(name: str, tmp_path: Path):
    utterances, problems = read(tmp_path, row(1, Path=f"$ROOT/demo/{name}"), f"demo/{name}")
    assert [each.path for each in utterances] == [f"demo/{name}"]
    assert problems == []


def test_a_name_without_a_row_that_is_not_utf_8_is_reported(tmp_path: Path):
    protocol = put(tmp_path, row(1), "demo/1.wav", "demo/\udcff.wav")
    assert entries_of(tmp_path, protocol)[-1] == (r"demo/\udcff.wav", "bad-name", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER, "none of its lines can be used; it has only a header"),
        (HEADER + "Toy-1,fake\n", r"none of its lines can be used; the first, toy\.csv:2: found 2 columns"),
        (HEADER + row(1, Label="0"), r"none of its lines can be used; the first, toy\.csv:2: '0'; known"),
        ("", r"it is empty; expected ID,Label"),
        (HEADER.replace(",", ";"), r"its columns are ID;Label;.* \(line 1, 1 column\); expected ID,Label"),
        (HEADER.replace("Speaker", "Attack"), r"its columns are ID,.*Attack,Attack,.* \(line 1, 12 columns\)"),
        (HEADER + row(1) + "Label,ID," + HEADER.split(",", 2)[2], r"another header, in line 3, has 12 columns"),
        (b"PK\x03\x04", "not a table in UTF-8: it is a zip archive"),
    ],
    ids=["header only", "columns", "labels", "empty", "separator", "repeated", "two orders", "XLSX"],
)  # fmt: skip
def test_a_fault_of_the_whole_table_is_one_line(content: str | bytes, message: str, tmp_path: Path):
    protocol = put_raw(tmp_path, content, "demo/1.wav")
    with pytest.raises(InputError, match=rf"toy\.csv: {message}") as caught:
        entries_of(tmp_path, protocol)
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_name_of_the_protocol_is_one_line(tmp_path: Path):
    (tmp_path / "toy.csv").mkdir()
    with pytest.raises(InputError, match=r"toy\.csv: Is a directory; expected a table"):
        check_protocol(str(tmp_path / "toy.csv"))
