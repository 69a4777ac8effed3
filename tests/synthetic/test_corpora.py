"""The demo corpora: layouts, labels, balance, repeatability and safe replacement."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from pipeline.errors import InputError
from pipeline.synthetic.corpora import MARKER, SOURCES, write_demo_corpora
from pipeline.synthetic.plan import plan_recordings

MINUTES = 0.5  # rounded up to 10 recordings per corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    write_demo_corpora(root, seed=3, minutes=MINUTES, num_workers=1)
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_workers_of_a_killed_call_exit(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.synthetic.corpora import write_demo_corpora\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_demo_corpora(Path(sys.argv[1]), minutes={MINUTES}, num_workers=2, on_progress=die)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    # This returns once no process holds the output open.
    killed = subprocess.run(command, capture_output=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_asvspoof2019_la_has_a_protocol_row_for_every_flac_and_nothing_else(root):
    corpus = root / "ASVspoof2019-LA" / "LA"
    for name, letter, kind in (("train", "T", "trn"), ("dev", "D", "trl"), ("eval", "E", "trl")):
        protocol = corpus / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{name}.{kind}.txt"
        rows = [line.split(" ") for line in protocol.read_text().splitlines()]
        files = {path.stem for path in (corpus / f"ASVspoof2019_LA_{name}" / "flac").glob("*.flac")}
        assert {row[1] for row in rows} == files
        assert all(stem.startswith(f"LA_{letter}_") for stem in files)
        for _, _, unused, attack, key in rows:
            assert unused == "-"
            assert (key, attack == "-") in {("bonafide", True), ("spoof", False)}
        assert {key for *_, key in rows} == {"bonafide", "spoof"}


def test_speakers_of_train_dev_and_eval_are_disjoint(root):
    protocols = (root / "ASVspoof2019-LA" / "LA" / "ASVspoof2019_LA_cm_protocols").glob("*.txt")
    speakers = [{line.split(" ")[0] for line in path.read_text().splitlines()} for path in protocols]
    assert sum(map(len, speakers)) == len(set.union(*speakers))


def test_in_the_wild_lists_every_wav_in_its_table(root):
    folder = root / "In-the-Wild" / "release_in_the_wild"
    with (folder / "meta.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.wav")}
    assert Counter(row["label"] for row in rows) == {"bona-fide": 5, "spoof": 5}


def test_the_paths_of_the_other_corpora_contain_their_labels(root):
    folders = {
        path.relative_to(root).parts[1:-1]
        for corpus in ("FLEURS", "MLAAD_v5", "FakeOrReal")
        for path in (root / corpus).rglob("*.*")
    }
    assert {parts[:2] for parts in folders} == {
        ("fleurs", "data"),
        *(("fake", language) for language in {parts[1] for parts in folders if parts[0] == "fake"}),
        *(("for-original", subset) for subset in ("training", "testing", "validation")),
    }
    assert {parts[2] for parts in folders if parts[0] == "for-original"} == {"real", "fake"}


def test_formats_rates_and_channels_vary(root):
    headers = [soundfile.info(path) for path in root.rglob("*") if path.suffix in {".flac", ".wav", ".mp3"}]
    assert {header.format for header in headers} == {"FLAC", "WAV", "MP3"}
    assert len({header.samplerate for header in headers}) >= 3
    assert {header.channels for header in headers} == {1, 2}


def test_evaluation_shares_no_language_voice_or_process_with_training():
    plan = plan_recordings(seed=0, minutes=60)
    evaluation = [each for each in plan if each.corpus in {"In-the-Wild", "FakeOrReal"}]
    training = [each for each in plan if each not in evaluation]
    assert not {each.voice.variant for each in training} & {each.voice.variant for each in evaluation}
    assert not {each.process for each in training} & {each.process for each in evaluation} - {None}
    languages = [{each.voice.language.partition("-")[0] for each in part} for part in (training, evaluation)]
    assert not languages[0] & languages[1]
    assert len(languages[0] | languages[1]) >= 12


def test_language_does_not_predict_the_label():
    plan = plan_recordings(seed=0, minutes=60)
    for corpora in ({"FLEURS", "MLAAD_v5"}, {"ASVspoof2019-LA"}):
        part = [each for each in plan if each.corpus in corpora]
        shares = Counter((each.voice.language.partition("-")[0], each.label) for each in part)
        for language in {language for language, _ in shares}:
            assert shares[language, "bonafide"] == pytest.approx(shares[language, "spoof"], rel=0.05)


def test_format_and_length_do_not_predict_the_label():
    plan = plan_recordings(seed=0, minutes=120)
    for corpus in ("In-the-Wild", "FakeOrReal"):
        by_label: dict[str, list[tuple[float, str]]] = {"bonafide": [], "spoof": []}
        for each in plan:
            if each.corpus == corpus:
                by_label[each.label].append((len(each.text), Path(each.path).suffix))
        for feature in (
            lambda rows: sum(length for length, _ in rows) / len(rows) / 40,
            lambda rows: sum(suffix == ".mp3" for _, suffix in rows) / len(rows),
        ):
            assert abs(feature(by_label["bonafide"]) - feature(by_label["spoof"])) < 0.2


def test_a_second_call_writes_nothing_and_reports_completion(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    reports = []
    write_demo_corpora(root, seed=3, minutes=MINUTES, on_progress=lambda *counts: reports.append(counts))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    num_files = len(plan_recordings(seed=3, minutes=MINUTES))
    assert reports == [(num_files, num_files)]


def test_incomplete_corpora_are_replaced_by_the_same_files_with_any_number_of_workers(root):
    before = digests(root)
    next(root.rglob("*.flac")).unlink()
    stray = root / "In-the-Wild" / "release_in_the_wild" / "stray.wav"
    stray.write_bytes(b"")
    write_demo_corpora(root, seed=3, minutes=MINUTES, num_workers=2)
    assert digests(root) == before


def test_a_folder_that_the_demo_did_not_write_is_not_touched(tmp_path):
    existing = tmp_path / "In-the-Wild" / "release_in_the_wild" / "0.wav"
    existing.parent.mkdir(parents=True)
    existing.write_bytes(b"real data")
    with pytest.raises(InputError, match="In-the-Wild already exists"):
        write_demo_corpora(tmp_path, minutes=MINUTES)
    assert existing.read_bytes() == b"real data"
    assert not (tmp_path / MARKER).exists()


def test_the_table_of_sources_lists_every_file_with_its_language_and_process(root):
    with (root / SOURCES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    audio = {path for path in root.rglob("*") if path.suffix in {".flac", ".wav", ".mp3"}}
    assert {root / row["corpus"] / row["path"] for row in rows} == audio
    plan = {(each.corpus, each.path): each for each in plan_recordings(seed=3, minutes=MINUTES)}
    for row in rows:
        recording = plan[row["corpus"], row["path"]]
        assert (row["label"], row["process"]) == (recording.label, recording.process or "-")
        assert (row["language"], row["text"]) == (recording.voice.language, recording.text)


def test_a_missing_espeak_is_an_error_with_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"pip install 'bonafide\[demo\]'"):
        write_demo_corpora(tmp_path, minutes=MINUTES)
    assert not (tmp_path / MARKER).exists()


def test_the_marker_of_finished_corpora_states_that_they_are_complete(root):
    assert json.loads((root / MARKER).read_text())["is_complete"] is True
