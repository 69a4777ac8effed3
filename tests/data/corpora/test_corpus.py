"""Reading corpora: every documented layout, and every conflict between files and protocols."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.data.audio.containers import AUDIO_SUFFIXES
from pipeline.data.corpora.corpus import read_corpus, read_files, segment
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.utterance import Problem, Utterance, utterance_uid
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.corpora.layouts import LAYOUTS, Expected, Layout, put

MANIFESTS = load_manifests()
IN_THE_WILD = "release_in_the_wild"


def read(name: str, root: Path) -> tuple[list[Utterance], list[Problem]]:
    items = list(read_corpus(MANIFESTS[name], Folder(str(root))))
    return (
        [item for item in items if isinstance(item, Utterance)],
        [item for item in items if isinstance(item, Problem)],
    )


def read_in_the_wild(root: Path, table: str, *files: str) -> tuple[list[Utterance], Counter[str]]:
    put(root / IN_THE_WILD / "meta.csv", f"file,speaker,label\n{table}")
    for file in files:
        put(root / IN_THE_WILD / file)
    utterances, problems = read("in_the_wild", root)
    return utterances, Counter(problem.reason for problem in problems)


def as_expected(utterance: Utterance) -> Expected:
    return Expected(**{name: getattr(utterance, name) for name in Expected.__dataclass_fields__})


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_documented_layout_gives_the_documented_utterances_and_problems(layout: Layout, tmp_path: Path):
    root = Folder(str(layout.write(tmp_path)))
    entries = list(read_files(MANIFESTS[layout.name], root))
    utterances = [item for _, item in entries if isinstance(item, Utterance)]
    assert {one.id: as_expected(one) for one in utterances} == {one.id: one for one in layout.utterances}
    assert len(utterances) == len(layout.utterances)
    problems = [
        (item.path, item.reason, file is not None) for file, item in entries if isinstance(item, Problem)
    ]
    expected = [(layout.stray, layout.stray_reason, True)]
    if layout.missing:
        expected.append((layout.missing, "missing", False))
    assert sorted(problems) == sorted(expected)


def test_no_two_layouts_share_an_id_or_a_uid(tmp_path: Path):
    utterances = [
        utterance
        for layout in LAYOUTS
        for utterance in read(layout.name, layout.write(tmp_path / layout.name))[0]
    ]
    assert len({one.id for one in utterances}) == len(utterances)
    assert len({one.uid for one in utterances}) == len(utterances)


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES))
def test_audio_of_any_suffix_that_no_pattern_matches_is_reported(suffix: str, tmp_path: Path):
    put(tmp_path / f"LJSpeech-1.1/notes/a{suffix.upper()}")
    put(tmp_path / "LJSpeech-1.1/notes/a.txt")
    utterances, problems = read("ljspeech", tmp_path)
    assert not utterances
    assert [(problem.path, problem.reason) for problem in problems] == [
        (f"LJSpeech-1.1/notes/a{suffix.upper()}", "stray")
    ]


def test_every_entry_has_its_file_as_listed(tmp_path: Path):
    put(tmp_path / "LJSpeech-1.1/wavs/LJ001-0001.wav", "12345")
    put(tmp_path / "LJSpeech-1.1/wavs/LJ001-0002.mp3", "1")
    entries = list(read_files(MANIFESTS["ljspeech"], Folder(str(tmp_path))))
    assert [(file.name, file.size) for file, _ in entries if file] == [
        ("LJSpeech-1.1/wavs/LJ001-0001.wav", 5),
        ("LJSpeech-1.1/wavs/LJ001-0002.mp3", 1),
    ]


def test_reading_yields_before_all_files_are_listed(tmp_path: Path):
    put(tmp_path / "mls_dutch/dev/audio/1/1/1_1_0.flac")
    put(tmp_path / "mls_french/README.txt")
    items = read_corpus(MANIFESTS["mls"], Folder(str(tmp_path)))
    assert next(items).path == "mls_dutch/dev/audio/1/1/1_1_0.flac"
    put(tmp_path / "mls_french/dev/audio/2/2/2_2_0.flac")
    assert [item.path for item in items] == ["mls_french/dev/audio/2/2/2_2_0.flac"]


def test_an_unlisted_spelling_rejects_only_its_file_and_names_the_known_ones(tmp_path: Path):
    table = "0.wav,Anna,spoof\n1.wav,Anna,fake\n"
    put(tmp_path / IN_THE_WILD / "meta.csv", f"file,speaker,label\n{table}")
    put(tmp_path / IN_THE_WILD / "0.wav")
    put(tmp_path / IN_THE_WILD / "1.wav")
    utterances, problems = read("in_the_wild", tmp_path)
    assert [one.id for one in utterances] == ["ItW-0"]
    assert problems == [
        Problem(
            f"{IN_THE_WILD}/1.wav",
            "unknown-label",
            f"{IN_THE_WILD}/meta.csv:3: 'fake'; known: bona-fide, spoof",
            language="en",
        )
    ]


def test_a_language_that_the_manifest_does_not_list_is_rejected(tmp_path: Path):
    put(tmp_path / "fleurs/data/xx_yy/audio/train/1.wav")
    utterances, problems = read("fleurs", tmp_path)
    assert not utterances
    assert [problem.reason for problem in problems] == ["unknown-language"]


def test_a_name_that_no_pattern_of_parse_matches_is_rejected(tmp_path: Path):
    put(tmp_path / "processed/p272_103.wav")
    utterances, problems = read("codecfake_vctk", tmp_path)
    assert not utterances
    assert [problem.reason for problem in problems] == ["unknown-utterance"]


def test_a_spoof_of_an_unlisted_system_is_rejected(tmp_path: Path):
    put(tmp_path / "generated_audio/libritts_hifigan/1.wav")
    utterances, problems = read("wavefake", tmp_path)
    assert not utterances
    assert [problem.reason for problem in problems] == ["unknown-language"]


def test_known_bad_files_are_reported_with_their_reason(tmp_path: Path):
    put(tmp_path / "for-original/training/fake/file16643.mp3")
    assert read("fakeorreal", tmp_path) == (
        [],
        [
            Problem(
                "for-original/training/fake/file16643.mp3",
                "known-bad",
                "not a regular file",
                label="spoof",
                artifact="tts",
                language="en",
            )
        ],
    )


def test_a_repeated_row_is_reported_and_its_file_is_read_once(tmp_path: Path):
    utterances, reasons = read_in_the_wild(tmp_path, "0.wav,Anna,spoof\n0.wav,Anna,spoof\n", "0.wav")
    assert [one.id for one in utterances] == ["ItW-0"]
    assert reasons == {"duplicate-row": 1}


def test_a_file_with_contradictory_rows_is_rejected(tmp_path: Path):
    utterances, reasons = read_in_the_wild(tmp_path, "0.wav,Anna,spoof\n0.wav,Anna,bona-fide\n", "0.wav")
    assert not utterances
    assert reasons == {"contradictory-row": 1, "contradictory": 1}


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/secret.wav", "a/../../secret.wav", "..\\secret.wav"])
def test_a_row_that_points_outside_the_root_is_rejected(name: str, tmp_path: Path):
    put(tmp_path / "secret.wav")
    root = tmp_path / "corpus"
    utterances, reasons = read_in_the_wild(root, f"{name},Anna,spoof\n0.wav,Anna,spoof\n", "0.wav")
    assert [one.id for one in utterances] == ["ItW-0"]
    assert reasons == {"unsafe-path": 1}


def test_a_row_with_too_few_cells_is_rejected_and_the_others_are_read(tmp_path: Path):
    utterances, reasons = read_in_the_wild(tmp_path, "0.wav,Anna\n\n1.wav,Anna,spoof\n,Anna,spoof\n", "1.wav")
    assert [one.id for one in utterances] == ["ItW-1"]
    assert reasons == {"malformed-row": 2}


def test_crlf_line_ends_and_a_byte_order_mark_are_accepted(tmp_path: Path):
    put(tmp_path / IN_THE_WILD / "meta.csv", "\ufefffile,speaker,label\r\n0.wav,Zoë,spoof\r\n")
    put(tmp_path / IN_THE_WILD / "0.wav")
    utterances, problems = read("in_the_wild", tmp_path)
    assert [one.speaker for one in utterances] == ["Zoë"]
    assert not problems


def test_a_table_that_lacks_a_column_is_an_error_that_names_it(tmp_path: Path):
    put(tmp_path / IN_THE_WILD / "meta.csv", "file,speaker,truth\n0.wav,Anna,spoof\n")
    with pytest.raises(
        InputError, match=r"meta\.csv: its header lacks 'label'; line 1 has 3 columns: .*truth"
    ):
        read("in_the_wild", tmp_path)


def test_a_table_that_is_not_utf_8_is_an_error_that_names_the_file(tmp_path: Path):
    put(tmp_path / IN_THE_WILD / "0.wav")
    (tmp_path / IN_THE_WILD / "meta.csv").write_bytes(b"file,speaker,label\n\xff\xfe,Anna,spoof\n")
    with pytest.raises(InputError, match=r"meta\.csv"):
        read("in_the_wild", tmp_path)


def test_a_corpus_without_any_protocol_file_is_an_error(tmp_path: Path):
    put(tmp_path / IN_THE_WILD / "0.wav")
    with pytest.raises(InputError, match=r"in_the_wild: no protocol in .*release_in_the_wild/meta\.csv"):
        read("in_the_wild", tmp_path)


def test_one_missing_protocol_of_several_is_reported_as_a_problem(tmp_path: Path):
    put(tmp_path / "ASVspoof5.train.tsv", "T_1 T_0001 F - - - - bonafide bonafide -\n")
    put(tmp_path / "flac_T/T_0001.flac")
    put(tmp_path / "flac_D/D_0001.flac")
    utterances, problems = read("asvspoof5", tmp_path)
    assert [one.id for one in utterances] == ["ASV5-bonafide-T_0001"]
    assert Counter(problem.reason for problem in problems) == {"no-protocol": 2, "unlisted": 1}


def test_a_second_file_for_the_same_row_is_ambiguous(tmp_path: Path):
    put(tmp_path / "ASVspoof5.train.tsv", "T_1 T_0001 F - - - - bonafide bonafide -\n")
    put(tmp_path / "ASVspoof5.dev.track_1.tsv")
    put(tmp_path / "ASVspoof5.eval.track_1.tsv")
    put(tmp_path / "flac_T/T_0001.flac")
    put(tmp_path / "ASVspoof5_train/flac_T/T_0001.flac")
    utterances, problems = read("asvspoof5", tmp_path)
    assert len(utterances) == 1
    assert [(problem.path, problem.reason) for problem in problems] == [("flac_T/T_0001.flac", "ambiguous")]


def test_a_corpus_without_a_folder_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="ljspeech: no folder"):
        read("ljspeech", tmp_path / "LJSpeech")


def test_a_log_line_that_no_pattern_matches_is_reported(tmp_path: Path):
    put(tmp_path / "KAGGLE/AUDIO/FAKE/a-to-b.wav")
    put(
        tmp_path / "DeepVoice_seg_log.txt",
        "Audio: a-to-b_seg_1, start at: 5, end at: 9\nAudio: a-to-b_seg_2, start at: 9, end at: 9\nOops\n",
    )
    utterances, problems = read("deepvoice", tmp_path)
    assert [(one.start, one.end) for one in utterances] == [(5, 9)]
    assert [(one.path, one.reason) for one in problems] == [
        ("DeepVoice_seg_log.txt:2", "malformed-row"),
        ("DeepVoice_seg_log.txt:3", "malformed-row"),
    ]


def test_a_file_name_that_is_not_utf_8_is_reported(tmp_path: Path):
    folder = tmp_path / "LJSpeech-1.1/wavs"
    folder.mkdir(parents=True)
    try:
        Path(str(folder) + "/\udcff.wav").write_bytes(b"")
    except OSError:
        pytest.skip("this file system rejects names that are not UTF-8")
    utterances, problems = read("ljspeech", tmp_path)
    assert not utterances
    assert [problem.reason for problem in problems] == ["bad-name"]
    problems[0].path.encode()


def test_segments_cover_a_file_and_keep_its_shorter_end(tmp_path: Path):
    put(tmp_path / "LJSpeech-1.1/wavs/LJ001-0001.wav")
    (whole,), _ = read("ljspeech", tmp_path)
    pieces = segment(whole, seconds=4, sample_rate=22050, num_samples=200_001)
    assert [(one.start, one.end) for one in pieces] == [(0, 88200), (88200, 176400), (176400, 200_001)]
    assert [one.id for one in pieces] == [f"LJ-LJ001-0001_seg{number}" for number in (1, 2, 3)]
    assert len({one.uid for one in pieces} | {whole.uid}) == 4
    assert segment(whole, seconds=4, sample_rate=22050, num_samples=0) == []


def test_segments_need_at_least_one_sample(tmp_path: Path):
    put(tmp_path / "LJSpeech-1.1/wavs/LJ001-0001.wav")
    (whole,), _ = read("ljspeech", tmp_path)
    with pytest.raises(InputError, match="have no samples"):
        segment(whole, seconds=0, sample_rate=22050, num_samples=5)


def test_a_uid_depends_on_corpus_path_and_segment_only():
    assert utterance_uid("ljspeech", "a.wav") == "c212f01859882188"
    names = {
        utterance_uid("ljspeech", "a.wav"),
        utterance_uid("ljspeech", "b.wav"),
        utterance_uid("mls", "a.wav"),
        utterance_uid("ljspeech", "a.wav", 0, 10),
        utterance_uid("ljspeech", "a.wav", 0, 11),
    }
    assert len(names) == 5
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)
