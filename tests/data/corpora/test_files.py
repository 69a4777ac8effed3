"""Every file of a corpus is an utterance, a problem, or counted by its kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data.audio.containers.names import AUDIO_SUFFIXES
from pipeline.data.corpora.corpus import read_corpus, read_files
from pipeline.data.corpora.csv_rows import COLUMNS
from pipeline.data.corpora.files import FILE_PROBLEMS, SYSTEM_FOLDERS, kind_of, left_out
from pipeline.data.corpora.manifest import Manifest, Protocol
from pipeline.data.corpora.pattern import Pattern, Template
from pipeline.data.corpora.protocol_csv import describe_protocol, read_protocol
from pipeline.data.corpora.utterance import Entry, NotAudio, Problem, Utterance
from pipeline.storage import Folder
from tests.data.corpora.layouts import put
from tests.faults import ordinary_permissions

KINDS = {
    "notes.txt": ".txt",
    "deep/Notes.TXT": ".txt",
    "a.wav.txt": ".txt",
    "a.tar.gz": ".gz",
    "a.7z": ".7z",
    "a.mp3.part": ".part",
    "README": "no ending",
    "a.wav/README": "no ending",
    "log.2024": "no ending",
    "Dr. Strange and all the rest": "no ending",
    "ends with a dot.": "no ending",
    "a.é": "no ending",
    ".DS_Store": "hidden",
    "._a.wav": "hidden",
    "wavs/._a.wav": "hidden",
    ".ipynb_checkpoints/a-checkpoint.wav": "hidden",
    "deep/.git/a.wav": "hidden",
    "...wav": "hidden",
    "__MACOSX/a.wav": "system",
    "__MACOSX/._a.wav": "system",
    ".Trash/lost+found/a.wav": "hidden",
    "deep/$Recycle.Bin/a.wav": "system",
    "lost+found": "system",
    "a/@eadir/b/SYNOAUDIO.wav": "system",
    "my__MACOSX/a.txt": ".txt",
    "__MACOSX-2/a.txt": ".txt",
    "a./b.txt": ".txt",
    "a/./b.txt": ".txt",
    "a/../b.txt": ".txt",
}


@pytest.mark.parametrize("path", KINDS)
def test_a_file_that_is_left_out_has_a_kind(path: str):
    assert kind_of(path) == KINDS[path]
    assert left_out(path) == (KINDS[path] if KINDS[path] in ("hidden", "system") else "")


@pytest.mark.parametrize("folder", SYSTEM_FOLDERS)
def test_system_folders_are_left_out_at_any_level_and_in_any_case(folder: str):
    for path in (f"{folder}/a.wav", f"x/{folder}/y/a.wav", f"{folder.upper()}/a.wav", folder):
        assert left_out(path) == "system"
    for path in (f"x{folder}/a.wav", f"{folder}x/a.wav", f"{folder}.wav"):
        assert left_out(path) == ""


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES))
def test_no_audio_ending_is_too_odd_to_be_counted(suffix: str):
    assert kind_of(f"a{suffix.upper()}") == suffix


def manifest(*ignore: str, protocol: Protocol | None = None, label: str | None = "bonafide") -> Manifest:
    return Manifest(
        name="toy",
        folder="toy",
        role="train",
        id=Template("{utterance}"),
        homepage="",
        licence="unknown",
        non_commercial=None,
        languages=("en",),
        sources=(),
        audio=(Pattern("wavs/{utterance**}.wav"),),
        constants={"artifact": "tts", "attack": "A07"} | ({"label": label} if label else {}),
        protocol=protocol,
        ignore=ignore,
    )


def outcomes(entries: list[Entry]) -> dict[str, str]:
    """What each path is: utterance, the reason of a problem, or the kind in brackets."""
    return {
        item.path: "utterance"
        if isinstance(item, Utterance)
        else item.reason
        if isinstance(item, Problem)
        else f"({item.kind})"
        for _, item in entries
    }


def test_every_file_of_a_corpus_is_an_utterance_a_problem_or_counted(tmp_path: Path):
    expected = {
        "wavs/a.wav": "utterance",
        "wavs/deep/b.wav": "utterance",
        "wavs/c.WAV": "stray",
        "wavs/d.mp3": "stray",
        "wavs/e.wav ": "stray",
        "wavs/f.wav.": "stray",
        "other/g.wav": "stray",
        "wavs/._a.wav": "(hidden)",
        ".ipynb_checkpoints/wavs/a.wav": "(hidden)",
        "wavs/.ipynb_checkpoints/a.wav": "(hidden)",
        "__MACOSX/wavs/._a.wav": "(system)",
        "wavs/@eaDir/a.wav": "(system)",
        "extra/h.wav": "(ignored)",
        "extra/h.txt": "(ignored)",
        "wavs/a.lab": "(.lab)",
        "LICENSE": "(no ending)",
        "protocol.txt": "(.txt)",
    }
    for path in expected:
        put(tmp_path / path)
    entries = list(read_files(manifest("extra/*"), Folder(str(tmp_path))))
    assert outcomes(entries) == expected
    assert [file.name for file, _ in entries if file] == sorted(expected), "once each, as listed"
    assert [item.path for item in read_corpus(manifest("extra/*"), Folder(str(tmp_path)))] == sorted(
        path for path, outcome in expected.items() if not outcome.startswith("(")
    )


def test_protocol_files_are_counted_and_files_that_match_but_are_not_listed_are_reported(tmp_path: Path):
    table = Protocol(
        files=(Pattern("protocol.csv"),),
        separator="comma",
        columns=(Pattern("{utterance**}"), Pattern("{label**}")),
    )
    put(tmp_path / "protocol.csv", "a,bonafide\nb,spoof\n")
    put(tmp_path / "wavs/a.wav")
    put(tmp_path / "wavs/c.wav")
    entries = list(read_files(manifest(protocol=table, label=None), Folder(str(tmp_path))))
    assert outcomes(entries) == {
        "protocol.csv": "(.csv)",
        "wavs/a.wav": "utterance",
        "wavs/b.wav": "missing",
        "wavs/c.wav": "unlisted",
    }


def test_a_file_that_must_not_be_opened_is_a_problem_of_its_class(tmp_path: Path):
    for path in ("wavs/good.wav", "wavs/closed/c.wav", "extra/closed/d.wav", ".hidden/e.wav", "lost+found/f"):
        put(tmp_path / path)
    (tmp_path / "wavs/loop.wav").symlink_to("loop.wav")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "wavs/pipe.wav")
    os.mkfifo(tmp_path / "pipe")
    closed = ["wavs/closed", "extra/closed", ".hidden", "lost+found"]
    for path in closed:
        (tmp_path / path).chmod(0)
    with ordinary_permissions():
        entries = list(read_files(manifest("extra/*", label="spoof"), Folder(str(tmp_path))))
    for path in closed:
        (tmp_path / path).chmod(0o755)
    assert outcomes(entries) == {
        "wavs/good.wav": "utterance",
        "wavs/closed": "unreadable",
        "extra/closed": "(ignored)",
        ".hidden": "(hidden)",
        "lost+found": "(system)",
        "wavs/loop.wav": "link-loop",
        "loop": "link-loop",
        "wavs/pipe.wav": "special",
        "pipe": "special",
    }
    problems = {item.path: item for _, item in entries if isinstance(item, Problem)}
    for path, problem in problems.items():
        assert problem.detail == FILE_PROBLEMS[problem.reason]  # type: ignore[index]
        known = ("spoof", "tts", "A07") if path.endswith(".wav") else (None, None, None)
        assert (problem.label, problem.artifact, problem.attack) == known


def test_a_listed_file_that_must_not_be_opened_is_not_missing_as_well(tmp_path: Path):
    table = Protocol(
        files=(Pattern("protocol.csv"),),
        separator="comma",
        columns=(Pattern("{utterance**}"), Pattern("{label**}"), Pattern("{attack**}")),
    )
    put(tmp_path / "protocol.csv", "a,spoof,A01\nb,spoof,A02\nc,bonafide,-\n")
    put(tmp_path / "wavs/a.wav")
    (tmp_path / "wavs/b.wav").symlink_to("b.wav")
    os.mkfifo(tmp_path / "wavs/c.wav")
    whole = manifest(protocol=table, label=None)
    entries = list(read_files(whole, Folder(str(tmp_path))))
    problems = [item for _, item in entries if isinstance(item, Problem)]
    assert [(one.path, one.reason, one.label, one.attack) for one in problems] == [
        ("wavs/b.wav", "link-loop", "spoof", "A02"),
        ("wavs/c.wav", "special", "bonafide", None),
    ]


def test_the_first_unknown_spelling_counts_and_the_others_still_tell_the_class(tmp_path: Path):
    toy = manifest(label="spoof")
    toy = type(toy)(
        **{
            **{name: getattr(toy, name) for name in toy.__dataclass_fields__},
            "audio": (Pattern("{language}/{attack}-{split}-{utterance}.wav"),),
            "constants": {"label": "spoof", "artifact": "tts"},
            "translate": {"attack": {"a7": "A07"}, "split": {"dev": "validation"}},
        }
    )
    for path in ("en/a7-dev-1.wav", "en/a7-eval-2.wav", "en/a8-dev-3.wav", "en/a8-eval-4.wav"):
        put(tmp_path / path)
    problems = [item for item in read_corpus(toy, Folder(str(tmp_path))) if isinstance(item, Problem)]
    assert [
        (one.path, one.reason, one.label, one.artifact, one.attack, one.language) for one in problems
    ] == [
        ("en/a7-eval-2.wav", "unknown-split", "spoof", "tts", "A07", "en"),
        ("en/a8-dev-3.wav", "unknown-attack", "spoof", "tts", None, "en"),
        ("en/a8-eval-4.wav", "unknown-attack", "spoof", "tts", None, "en"),
    ]


def test_a_hidden_name_that_is_no_text_is_counted(tmp_path: Path):
    put(tmp_path / "wavs/caf\udce9.wav")
    put(tmp_path / "wavs/.caf\udce9.wav")
    entries = list(read_files(manifest(), Folder(str(tmp_path))))
    assert outcomes(entries) == {"wavs/.caf\\udce9.wav": "(hidden)", "wavs/caf\\udce9.wav": "bad-name"}
    assert {type(item) for _, item in entries} == {NotAudio, Problem}


def test_files_beside_the_rows_of_a_protocol_csv_are_counted_and_bad_ones_are_problems(tmp_path: Path):
    root = tmp_path / "root"
    for path in ("a/1.wav", "a/._1.wav", "a/notes.txt", "a/extra.wav", "closed/5.wav", "__MACOSX/a/1.wav"):
        put(root / path)
    (root / "a/2.wav").symlink_to("2.wav")
    os.mkfifo(root / "a/3.wav")
    os.mkfifo(root / "a/pipe")
    files = ["a/1.wav", "a/2.wav", "a/3.wav", "a/4.wav", "closed/5.wav"]
    lines = [f"{path},fake,1.0,16000,$ROOT/{path},A07,s,train,1,pcm,16,en" for path in files]
    put(tmp_path / "toy.csv", "\n".join([",".join(COLUMNS), *lines, ""]))
    (root / "closed").chmod(0)
    toy = describe_protocol("toy", role="train", artifact="tts")
    with ordinary_permissions():
        entries = list(read_protocol(toy, Folder(str(root)), str(tmp_path / "toy.csv")))
    (root / "closed").chmod(0o755)
    assert outcomes(entries) == {
        "a/1.wav": "utterance",
        "a/2.wav": "link-loop",
        "a/3.wav": "special",
        "a/4.wav": "missing",
        "closed/5.wav": "missing",
        "closed": "unreadable",
        "a/._1.wav": "(hidden)",
        "a/extra.wav": "unlisted",
        "a/notes.txt": "(.txt)",
        "a/pipe": "special",
    }
    lost = {item.path: item.attack for _, item in entries if isinstance(item, Problem)}
    assert {path for path, attack in lost.items() if attack == "A07"} == set(files[1:])
