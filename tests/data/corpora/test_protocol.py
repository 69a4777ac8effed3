"""Joining tables to files: no row and no file disappears, and what is lost has its class."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest

from pipeline.data.corpora import protocol
from pipeline.data.corpora.corpus import read_corpus
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.namesakes import Namesakes
from pipeline.data.corpora.translation import Translator
from pipeline.data.corpora.utterance import Problem, Utterance
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.corpora.layouts import put

MANIFESTS = load_manifests()
WILD = "release_in_the_wild"
HEADER = "file,speaker,label\n"
COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é.wav"), unicodedata.normalize("NFD", "é.wav")


def read(root: Path, corpus: str) -> tuple[list[Utterance], list[Problem]]:
    items = list(read_corpus(MANIFESTS[corpus], Folder(str(root))))
    return (
        [item for item in items if isinstance(item, Utterance)],
        [item for item in items if isinstance(item, Problem)],
    )


def read_wild(
    root: Path, table: str, *files: str
) -> tuple[dict[str, str], list[tuple[str, str, str | None]]]:
    """Labels by file; and path, reason and label of each problem."""
    put(root / WILD / "meta.csv", table)
    for file in files:
        put(root / WILD / file)
    utterances, problems = read(root, "in_the_wild")
    return (
        {one.path.removeprefix(f"{WILD}/"): one.label for one in utterances},
        [(one.path.removeprefix(f"{WILD}/"), one.reason, one.label) for one in problems],
    )


def read_codecfake(root: Path, table: str, *files: str) -> list[Problem]:
    put(root / "label/train.txt", table)
    put(root / "label/dev.txt")
    put(root / "label/C7.txt")
    for file in files:
        put(root / "train" / file)
    return [one for one in read(root, "codecfake")[1] if one.reason != "unlisted"]


def test_a_stray_quote_moves_no_label_and_swallows_no_row(tmp_path: Path):
    table = '0.wav,A,bona-fide\n1.wav,"Alec,spoof\n2.wav,Bob,bona-fide\n3.wav,Eve",bona-fide\n'
    labels, problems = read_wild(tmp_path, HEADER + table, "0.wav", "1.wav", "2.wav", "3.wav")
    assert labels == {"0.wav": "bonafide", "2.wav": "bonafide"}
    assert problems == [
        ("meta.csv:3", "malformed-row", None),
        ("meta.csv:5", "malformed-row", None),
        ("1.wav", "unlisted", None),
        ("3.wav", "unlisted", None),
    ]
    details = [one.detail for one in read(tmp_path, "in_the_wild")[1]]
    assert details[0] == (
        "found an unbalanced quote in column 2 of '1.wav,\"Alec,spoof'; expected 3 columns: file, speaker, label"
    )


@pytest.mark.parametrize(
    ("line", "detail", "label"),
    [
        ("1.wav,A", "found 2 columns in '1.wav,A'; expected 3 columns: file, speaker, label", None),
        ("1.flac,A,spoof", "found '1.flac' in column file; expected '{utterance}.wav'", "spoof"),
        (",A,spoof", "found '' in column file; expected '{utterance}.wav'", "spoof"),
        ("1.wav,A\0B,spoof", "found 'A\\x00B'; expected text without NUL", "spoof"),
        (
            "file,speaker,label",
            "found the header again in 'file,speaker,label'; expected 3 columns: file, speaker, label",
            None,
        ),
    ],
)
def test_a_malformed_row_says_line_found_and_expected_and_its_class_if_it_can_be_told(
    line: str, detail: str, label: str | None, tmp_path: Path
):
    put(tmp_path / WILD / "meta.csv", f"{HEADER}0.wav,A,spoof\n{line}\n")
    put(tmp_path / WILD / "0.wav")
    _, problems = read(tmp_path, "in_the_wild")
    found = [(one.path, one.reason, one.detail, one.label) for one in problems if one.reason != "unlisted"]
    assert found == [(f"{WILD}/meta.csv:3", "malformed-row", detail, label)]


def test_a_row_without_columns_names_is_compared_with_the_fields_of_the_manifest(tmp_path: Path):
    problems = read_codecfake(tmp_path, "a.wav real 0\nb.wav real\nc.flac fake 1\n", "a.wav")
    assert [(one.path, one.detail, one.label, one.attack) for one in problems] == [
        (
            "label/train.txt:2",
            "found 2 columns in 'b.wav real'; expected 3 columns: {utterance}.wav, label, attack",
            None,
            None,
        ),
        (
            "label/train.txt:3",
            "found 'c.flac' in column {utterance}.wav; expected '{utterance}.wav'",
            "spoof",
            "F01",
        ),
    ]


def test_a_line_that_no_pattern_matches_is_compared_with_the_patterns(tmp_path: Path):
    put(tmp_path / "KAGGLE/AUDIO/FAKE/a-to-b.wav")
    line = "Audio: a-to-b_seg_1, start at: 5, end at: "
    put(tmp_path / "DeepVoice_seg_log.txt", f"{line}9\nOops\n{line}4\n")
    _, problems = read(tmp_path, "deepvoice")
    assert [one.path for one in problems] == ["DeepVoice_seg_log.txt:2", "DeepVoice_seg_log.txt:3"]
    assert problems[0].detail.startswith(
        "found 'Oops'; expected a line like 'Audio: {recording}_seg_{number},"
    )
    assert problems[1].detail == "found '5' to '4'; expected the first and last sample of a segment"


def test_the_line_of_an_unknown_spelling_is_named_for_files_that_exist(tmp_path: Path):
    problems = read_codecfake(
        tmp_path, "a.wav real 0\nb.wav fake 9\nc.wav fakes 1\n", "a.wav", "b.wav", "c.wav"
    )
    assert [(one.path, one.reason, one.detail, one.label, one.attack) for one in problems] == [
        (
            "train/b.wav",
            "unknown-attack",
            "label/train.txt:2: '9'; known: 1, 2, 3, 4, 5, 6, 7",
            "spoof",
            None,
        ),
        ("train/c.wav", "unknown-label", "label/train.txt:3: 'fakes'; known: real, fake", None, "F01"),
    ]


def test_the_rest_of_the_rows_is_read_even_if_most_have_an_unknown_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(protocol, "MAX_LOCATIONS", 1)
    problems = read_codecfake(tmp_path, "a.wav no 0\nb.wav no 0\nc.wav real 0\n", "a.wav", "b.wav", "c.wav")
    assert [one.detail.partition("'")[0] for one in problems] == ["label/train.txt:1: ", ""]


def test_a_cut_download_is_reported_where_it_ends(tmp_path: Path):
    labels, problems = read_wild(tmp_path, f"{HEADER}0.wav,A,spoof\n1.wav,B,spo", "0.wav", "1.wav", "2.wav")
    assert labels == {"0.wav": "spoof"}
    assert problems == [("1.wav", "unknown-label", None), ("2.wav", "unlisted", None)]
    labels, problems = read_wild(tmp_path, f"{HEADER}0.wav,A,spoof\n1.wav,B,spoof", "0.wav", "1.wav")
    assert labels == {"0.wav": "spoof", "1.wav": "spoof"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "file;speaker;label\n0.wav;A;spoof\n",
            r"line 1 has 1 column: file;speaker;label; expected file, speaker, ",
        ),
        (
            "file,speaker,label,label\n0.wav,A,spoof,spoof\n",
            r"repeats 'label'; line 1 has 4 columns: .*; expected",
        ),
        (
            "0.wav,A,spoof\n1.wav,B,spoof\n",
            r"lacks 'file', 'speaker', 'label'; line 1 has 3 columns: 0.wav, A, ",
        ),
        (HEADER, r"no rows; expected columns: file, speaker, label, separated by comma"),
        (
            f"{HEADER}0.wav,A\n",
            r"meta\.csv:2: no line of this table is a row of in_the_wild; .* found 2 columns",
        ),
        (f"{HEADER}../0.wav,A,spoof\n", r"meta\.csv:2: no line of this table is a row .* found '\.\./0'"),
        (
            f"{HEADER}A.wav,A,spoof\nB.wav,A,spoof\n",
            r"meta\.csv:2: none of the 2 files in the protocol exists",
        ),
        (
            f"{HEADER}0.wav,A,spoof\nlabel,file,speaker\nspoof,1.wav,B\n",
            r"another header, in line 3, has 3 columns",
        ),
    ],
    ids=[
        "separator",
        "repeated",
        "no header",
        "no rows",
        "other columns",
        "unsafe",
        "other corpus",
        "two orders",
    ],
)
def test_a_fault_of_the_whole_table_is_one_line(table: str, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message) as caught:
        read_wild(tmp_path, table, "0.wav", "1.wav")
    assert f"{WILD}/meta.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_name_of_the_table_is_one_line(tmp_path: Path):
    (tmp_path / WILD / "meta.csv").mkdir(parents=True)
    with pytest.raises(InputError, match=r"meta\.csv: Is a directory; expected a table"):
        read(tmp_path, "in_the_wild")


def test_a_key_file_of_another_corpus_names_line_and_columns(tmp_path: Path):
    put(tmp_path / "ASVspoof5.train.tsv", "LA_0079 LA_T_1138215 - - bonafide\n")
    put(tmp_path / "flac_T/T_0001.flac")
    with pytest.raises(
        InputError, match=r"train\.tsv:1: .* asvspoof5; .* found 5 columns .* expected 10 columns"
    ):
        read(tmp_path, "asvspoof5")


def test_what_a_row_loses_has_the_class_of_the_row(tmp_path: Path):
    table = (
        "T_1 T_1 F - - - - A01 spoof -\n"
        "T_1 T_1 F - - - - A01 spoof -\n"  # repeats
        "T_1 T_2 F - - - - A02 spoof -\n"
        "T_9 T_2 F - - - - A02 spoof -\n"  # contradicts in the speaker
        "T_1 T_3 F - - - - A03 spoof -\n"
        "T_1 T_3 F - - - - bonafide bonafide -\n"  # contradicts in the label
        "T_1 T_4 F - - - - A04 spoof -\n"  # missing
        "T_1 T_5 F - - - - A05 spoof -\n"  # contradicted and missing
        "T_9 T_5 F - - - - A05 spoof -\n"
        "T_1 ../T_6 F - - - - A06 spoof -\n"
    )
    put(tmp_path / "ASVspoof5.train.tsv", table)
    put(tmp_path / "ASVspoof5.dev.track_1.tsv")
    put(tmp_path / "ASVspoof5.eval.track_1.tsv")
    for path in ("flac_T/T_1.flac", "flac_T/T_2.flac", "flac_T/T_3.flac", "ASVspoof5_x/flac_T/T_1.flac"):
        put(tmp_path / path)
    put(tmp_path / "flac_T/T_7.flac")
    utterances, problems = read(tmp_path, "asvspoof5")
    assert [one.path for one in utterances] == ["ASVspoof5_x/flac_T/T_1.flac"]
    assert [
        (one.path, one.reason, one.label, one.artifact, one.attack, one.language) for one in problems
    ] == [
        ("ASVspoof5.train.tsv:2", "duplicate-row", "spoof", "mixed", "A01", "en"),
        ("ASVspoof5.train.tsv:4", "contradictory-row", "spoof", "mixed", "A02", "en"),
        ("ASVspoof5.train.tsv:6", "contradictory-row", "bonafide", None, None, "en"),
        ("ASVspoof5.train.tsv:9", "contradictory-row", "spoof", "mixed", "A05", "en"),
        ("ASVspoof5.train.tsv:10", "unsafe-path", "spoof", "mixed", "A06", "en"),
        ("flac_T/T_1.flac", "ambiguous", "spoof", "mixed", "A01", "en"),
        ("flac_T/T_2.flac", "contradictory", "spoof", "mixed", "A02", "en"),
        ("flac_T/T_3.flac", "contradictory", None, None, None, "en"),
        ("flac_T/T_7.flac", "unlisted", None, None, None, "en"),
        ("ASVspoof5_*/flac_*/T_4.flac", "missing", "spoof", "mixed", "A04", "en"),
        ("ASVspoof5_*/flac_*/T_5.flac", "missing", "spoof", "mixed", "A05", "en"),
    ]
    # In = out + rejected: ten rows and one file without a row.
    assert len(utterances) + len(problems) == 10 + 1 + 1, "the second file of T_1 counts once more"


def test_a_missing_file_has_the_class_that_its_fields_within_fields_tell(tmp_path: Path):
    problems = read_codecfake(tmp_path, "a.wav real 0\nSSB1.wav real 0\nF03_p225_1.wav fake 3\n", "a.wav")
    assert [(one.path, one.reason, one.label, one.attack, one.language) for one in problems] == [
        ("train/SSB1.wav", "missing", "bonafide", None, "zh"),
        ("train/F03_p225_1.wav", "missing", "spoof", "F03", "en"),
    ]


def test_every_segment_of_a_missing_file_is_missing(tmp_path: Path):
    put(tmp_path / "KAGGLE/AUDIO/FAKE/a-to-b.wav")
    line = "Audio: {}_seg_1, start at: {}, end at: {}\n"
    put(
        tmp_path / "DeepVoice_seg_log.txt",
        line.format("a-to-b", 0, 9) + line.format("gone", 0, 9) + line.format("gone", 9, 18),
    )
    utterances, problems = read(tmp_path, "deepvoice")
    assert len(utterances) == 1
    assert [(one.path, one.reason) for one in problems] == [("KAGGLE/AUDIO/*/gone.wav", "missing")] * 2


def test_a_known_bad_file_has_the_class_of_its_row_and_is_not_missing_as_well(tmp_path: Path):
    manifest = MANIFESTS["in_the_wild"]
    bad = type(manifest)(
        **{name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
        | {"known_bad": {f"{WILD}/1.wav": "silent"}}
    )
    put(tmp_path / WILD / "meta.csv", f"{HEADER}0.wav,A,spoof\n1.wav,A,spoof\n")
    for name in ("0.wav", "1.wav"):
        put(tmp_path / WILD / name)
    problems = [one for one in read_corpus(bad, Folder(str(tmp_path))) if isinstance(one, Problem)]
    assert problems == [Problem(f"{WILD}/1.wav", "known-bad", "silent", "spoof", "mixed", None, "en")]


@pytest.mark.parametrize("other", ["1.flac", "1.WAV", "1.mp3"])
def test_a_missing_file_with_another_ending_on_disk_is_named(other: str, tmp_path: Path):
    put(tmp_path / WILD / "meta.csv", f"{HEADER}0.wav,A,bona-fide\n1.wav,B,spoof\n")
    for name in ("0.wav", other):
        put(tmp_path / WILD / name)
    _, problems = read(tmp_path, "in_the_wild")
    details = {one.reason: one.detail for one in problems}
    assert details["missing"].endswith(f"; on disk is {WILD}/{other}")
    assert set(details) == {"stray", "missing"}


def test_a_corpus_with_other_endings_throughout_is_one_line_that_names_one(tmp_path: Path):
    with pytest.raises(InputError, match=rf"the first is {WILD}/0\.wav; on disk is {WILD}/0\.flac; is this"):
        read_wild(tmp_path, f"{HEADER}0.wav,A,spoof\n1.wav,B,spoof\n", "0.flac", "1.flac")


def test_namesakes_are_compared_by_path_unless_it_is_unknown():
    files = Namesakes()
    for path in ("a/1.flac", "b/1.mp3", "c/de\u0301.flac"):
        files.add(path)
    assert files.hint("a/1.wav") == "; on disk is a/1.flac"
    assert files.hint("b/1.wav") == "; on disk is b/1.mp3"
    assert files.hint("c/1.wav") == ""
    assert files.hint("*/1.wav") == "; on disk is a/1.flac"
    assert files.hint("c/d\u00e9.wav") == "; on disk is c/de\u0301.flac"


needs_forms = pytest.mark.skipif(sys.platform == "darwin", reason="this file system knows one form of a name")


@needs_forms
@pytest.mark.parametrize(("in_table", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_row_joins_a_file_whose_name_has_another_unicode_form(in_table: str, on_disk: str, tmp_path: Path):
    labels, problems = read_wild(tmp_path, f"{HEADER}0.wav,A,spoof\n{in_table},A,spoof\n", "0.wav", on_disk)
    assert labels == {"0.wav": "spoof", on_disk: "spoof"}
    assert problems == []


@needs_forms
@pytest.mark.parametrize("first", [COMPOSED, DECOMPOSED])
def test_rows_and_files_that_differ_only_in_their_unicode_form_are_told_apart(first: str, tmp_path: Path):
    second = DECOMPOSED if first == COMPOSED else COMPOSED
    rows = f"{HEADER}{first},A,spoof\n{second},A,bona-fide\n"
    labels, problems = read_wild(tmp_path, rows, first, second)
    assert labels == {first: "spoof", second: "bonafide"}
    assert problems == []


@needs_forms
@pytest.mark.parametrize("listed", [COMPOSED, DECOMPOSED])
def test_a_file_of_another_unicode_form_does_not_take_the_row_of_one_that_is_written_like_it(
    listed: str, tmp_path: Path
):
    other = DECOMPOSED if listed == COMPOSED else COMPOSED
    labels, problems = read_wild(tmp_path, f"{HEADER}{listed},A,spoof\n", listed, other)
    assert labels == {listed: "spoof"}
    assert problems == [(other, "ambiguous", "spoof")]


def test_a_missing_name_with_invisible_characters_is_spelled_out(tmp_path: Path):
    put(tmp_path / WILD / "meta.csv", f"{HEADER}0.wav,A,spoof\n1\u200b.wav,A,spoof\n")
    for name in ("0.wav", "1.wav"):
        put(tmp_path / WILD / name)
    missing = [one for one in read(tmp_path, "in_the_wild")[1] if one.reason == "missing"]
    assert [one.detail.partition("; ")[2] for one in missing] == [rf"the name is '{WILD}/1\u200b.wav'"]


@pytest.mark.parametrize(
    "name", [r"a\b.wav", r"\a.wav", "a'b.wav", "a b.wav", "a;b.wav", "ä?*.wav", "a\u2028.wav"]
)
def test_odd_but_legal_names_join(name: str, tmp_path: Path):
    labels, problems = read_wild(tmp_path, f"{HEADER}0.wav,A,spoof\n{name},B,bona-fide\n", "0.wav", name)
    assert labels == {"0.wav": "spoof", name: "bonafide"}
    assert problems == []


def test_a_quote_in_a_name_is_doubled_in_a_quoted_cell(tmp_path: Path):
    labels, problems = read_wild(tmp_path, f'{HEADER}"a""b,c.wav",B,bona-fide\n', 'a"b,c.wav')
    assert labels == {'a"b,c.wav': "bonafide"}
    assert problems == []


def test_rows_with_equal_values_share_them(tmp_path: Path):
    manifest = MANIFESTS["asvspoof5"]
    assert manifest.protocol
    rows = "".join(f"T_{number % 2} T_{number} F - - - - A01 spoof -\n" for number in range(1000))
    put(tmp_path / "ASVspoof5.train.tsv", rows)
    table = protocol.ProtocolTable(manifest, manifest.protocol, Translator(manifest))
    list(table.load(Folder(str(tmp_path))))
    assert len(table.by_key) == 1000
    assert len({id(row) for row in table.by_key.values()}) == 2
    for number in range(1000):
        list(table.rows("x.flac", {"utterance": f"T_{number}", "split": "T"}))
    assert len({id(row) for row in table.by_key.values()}) == 2
    assert not (table.decomposed or table.locations or table.segments)
