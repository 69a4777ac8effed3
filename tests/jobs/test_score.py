"""`bonafide score --audio`: a folder of audio files, scored through Ray."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from jobs import score
from jobs.__main__ import run_command
from jobs.benchmarks.noise_store import make_store
from jobs.checkpoint_source import Checkpoint
from jobs.scoring import alone, loop, on_ray
from jobs.scoring.audio_files import LARGE_BYTES, LOSSLESS_ENDINGS, AudioFiles, plan_folder
from jobs.scoring.calibrations import choose_calibrations
from jobs.scoring.config import ScoreConfig
from jobs.scoring.description import is_loss
from jobs.scoring.executor import ProcessDiedError
from jobs.scoring.folder import (
    PartTables,
    check_folders,
    claim_folders,
    missing_parts,
    read_rejects,
    write_part,
)
from jobs.scoring.inputs import Reject, to_reject_row
from jobs.scoring.loop import MAX_DEATHS, NUM_PIECES, Span
from jobs.scoring.parts import PartScorer, ScorerSettings, divide
from jobs.scoring.pool import share_cpus
from jobs.scoring.stored_utterances import StoredUtterances, plan_validation
from jobs.scoring.weights import load_again
from pipeline import tables, tracking
from pipeline.config import parse, to_toml
from pipeline.data.audio.containers.names import AUDIO_SUFFIXES
from pipeline.data.audio.load import load_audio
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store.layout import tar_name
from pipeline.data.store.shard_tables import read_index
from pipeline.detector.checkpoint import load_detector, save_detector
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.detector.scoring import Scorer
from pipeline.detector.windows import WindowPolicy
from pipeline.errors import InputError
from pipeline.evaluation.calibration import METADATA_KEY, from_record, parse_calibration, with_calibration
from pipeline.evaluation.complete import find_score_folders
from pipeline.evaluation.layout import (
    FILE_COLUMNS,
    REJECT_COLUMNS,
    UTTERANCE_COLUMNS,
    part_rejects_name,
    policy_folder,
)
from pipeline.evaluation.scores import load_scores
from pipeline.fields import Names
from pipeline.storage import STAGED_SUFFIX, Folder
from tests.data.store.test_odd_names import NAMES, NOT_ON_THE_TEST_SERVER
from tests.detector.toys import make_detector
from tests.evaluation.simulated import write_system
from tests.faults import ordinary_permissions
from tests.jobs.deadly import (
    DEADLY_SAMPLES,
    DeadlyScorer,
    ShortOfMemoryScorer,
    StillbornScorer,
    die_decoding,
)

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

UNDECODABLE = {
    ".ipynb_checkpoints/a-checkpoint.wav": "hidden",
    "__MACOSX/._a.wav": "system",
    "deep/empty.wav": "empty",
    "loop.wav": "link-loop",
    "pipe.wav": "special",
    "memory.wav": "unreadable",
    "notes.txt": "not_audio",
    "cut.flac": "truncated",
    "still.wav": "silent",
}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny detector whose scores differ from file to file."""
    detector = make_detector(VARIANTS["tiny"])
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    save_detector(detector, path, {"training": "feedbeef", "step": "7"})
    return path


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nested folders with files for each decoder, and files that cannot be scored."""
    root = tmp_path_factory.mktemp("data") / "calls"
    rng = np.random.default_rng(3)

    def speech(seconds: float, sample_rate: int, num_channels: int = 1) -> NDArray[np.float32]:
        time_s = np.arange(int(seconds * sample_rate)) / sample_rate
        voice = 0.2 * np.sin(2 * np.pi * rng.uniform(80, 300) * time_s) * (1 + np.sin(7 * time_s))
        noise = 0.02 * rng.standard_normal((time_s.size, num_channels))
        return (voice[:, None] + noise).astype(np.float32)

    (root / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(
        ("a.wav", "a.flac", "b.mp3", "c.ogg", "deep/d.opus", "deep/er/e.name.flac")
    ):
        form = {"mp3": "MP3", "ogg": "OGG", "opus": "OGG", "wav": "WAV", "flac": "FLAC"}[
            name.rpartition(".")[2]
        ]
        subtype = "OPUS" if name.endswith("opus") else None
        rate, channels = ((16_000, 1), (44_100, 2), (48_000, 1))[number % 3]
        rate = 48_000 if subtype else rate
        data = speech(0.4 + 0.3 * number, rate, channels)
        soundfile.write(root / name, data, rate, format=form, subtype=subtype)
    write_m4a(root / "deep" / "f.m4a", speech(1.0, 44_100))
    (root / "deep" / "empty.wav").touch()
    for name in (".ipynb_checkpoints/a-checkpoint.wav", "__MACOSX/._a.wav"):
        (root / name).parent.mkdir()
        (root / name).write_bytes((root / "a.wav").read_bytes())
    (root / "loop.wav").symlink_to("loop.wav")
    (root / "memory.wav").symlink_to("/proc/self/mem")  # reading it fails like a bad sector
    os.mkfifo(root / "pipe.wav")
    (root / "notes.txt").write_text("a transcript")
    (root / "cut.flac").write_bytes((root / "a.flac").read_bytes()[:9000])
    soundfile.write(root / "still.wav", np.zeros(16_000), 16_000)
    return root


def write_m4a(path: Path, samples: NDArray[np.float32]) -> None:
    with av.open(path, "w", format="ipod") as output:
        stream = output.add_stream("aac", rate=44_100, layout="mono")
        assert isinstance(stream, av.AudioStream)
        pcm = np.round(samples * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)


def config(audio: Path | str, detector: Path | str, out: Path | str) -> ScoreConfig:
    return ScoreConfig(
        audio=str(audio), checkpoint=str(detector), out=str(out), part_seconds=2.0, num_workers=1
    )


@pytest.fixture(scope="module")
def scored(audio: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    out = tmp_path_factory.mktemp("scored") / "scores"
    assert score.main(config(audio, detector, out)) == 1, "some files that are named as audio have no score"
    return out


def score_one_by_one(audio: Path, detector: Path, policy: str = "whole") -> dict[str, NDArray[np.float32]]:
    """Score each file in a batch of its own: path → logits [2] of spoof and bona fide."""
    scorer = Scorer(load_detector(detector).detector, policy=WindowPolicy.parse(policy))
    paths = {info.name: audio / info.name for info in Folder(str(audio)).find()}
    return {
        name: scorer.score([load_audio(path.read_bytes(), name).waveform])[0]
        for name, path in paths.items()
        if name not in UNDECODABLE
    }


@pytest.mark.ray
def test_scores_equal_those_of_each_file_in_a_batch_of_its_own(
    scored: Path, audio: Path, detector: Path
) -> None:
    table = pq.read_table(scored / "scores")
    assert (
        table.schema.names
        == FILE_COLUMNS.names
        == ["id", "path", "seconds", "level_dbfs", "logit_spoof", "logit_bonafide", "score", "llr", "verdict"]
    )
    assert {str(table.schema.field(name).type) for name in table.schema.names[2:8]} == {"float"}
    assert table["llr"].null_count == table["verdict"].null_count == len(table), "there is no calibration"
    expected = score_one_by_one(audio, detector)
    rows = {row["path"]: row for row in table.to_pylist()}
    assert rows.keys() == expected.keys()
    assert len(table) == len(rows)
    assert np.ptp([logits[1] for logits in expected.values()]) > 1e-2, "the files must have different scores"
    for path, logits in expected.items():
        spoof, bonafide = rows[path]["logit_spoof"], rows[path]["logit_bonafide"]
        np.testing.assert_allclose([spoof, bonafide], logits, atol=1e-5, rtol=0)
        assert rows[path]["score"] == np.float32(bonafide) - np.float32(spoof)
        waveform = load_audio((audio / path).read_bytes(), path).waveform
        assert rows[path]["seconds"] == pytest.approx(len(waveform) / 16_000)
        assert rows[path]["level_dbfs"] == pytest.approx(20 * np.log10(np.std(waveform)), abs=0.1)
    assert len(list((scored / "scores").iterdir())) > 1


@pytest.mark.ray
def test_undecodable_files_are_counted_and_listed(scored: Path, audio: Path) -> None:
    rejects = {row["path"]: row for row in pq.read_table(scored / "rejects.parquet").to_pylist()}
    assert {path: row["reason"] for path, row in rejects.items()} == UNDECODABLE
    assert all(row["detail"] for row in rejects.values())
    record = json.loads((scored / "scores.json").read_text())
    num_files = sum(1 for _ in Folder(str(audio)).find())
    assert record["num_utterances"] + record["num_rejected"] == num_files
    assert record["num_rejected"] == len(UNDECODABLE)
    assert record["rejected"] == dict.fromkeys(UNDECODABLE.values(), 1)
    assert record["system"] == "detector (step 7)"
    assert "libsndfile" in record["decoder"]


@pytest.mark.parametrize(
    ("path", "reason", "is_missed"),
    [
        ("a.wav", "not_audio", True),
        ("notes.txt", "not_audio", False),
        ("call", "truncated", True),
        ("pipe", "special", False),
        ("pipe.wav", "special", True),
        (".a.wav", "hidden", False),
        ("folder", "unreadable", True),
        ("a.flac", "too_long_for_memory", True),
    ],
)
def test_a_reject_is_a_loss_if_it_is_audio_or_named_as_audio(path: str, reason: str, is_missed: bool) -> None:
    assert is_loss(to_reject_row({"path": path}, Reject(reason, "d"))) == is_missed


@pytest.mark.ray
def test_a_killed_scoring_resumes_with_the_missing_parts(
    scored: Path, audio: Path, detector: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = sorted((scored / "scores").iterdir())
    before = {path.name: path.read_bytes() for path in parts}
    parts[0].unlink()
    (scored / "scores.json").unlink()
    score.main(config(audio, detector, scored))
    printed = capfd.readouterr()
    assert f"{len(parts)} parts planned, {len(parts) - 1} already scored, 1 to score" in printed.out
    assert f"{len(UNDECODABLE)} rejected" not in printed.err and "scoring 1/1 utterance " in printed.err
    assert {path.name: path.read_bytes() for path in (scored / "scores").iterdir()} == before
    assert json.loads((scored / "scores.json").read_text())["num_rejected"] == len(UNDECODABLE)


@pytest.mark.ray
def test_scores_of_other_files_need_another_folder(
    scored: Path, audio: Path, detector: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.wav").write_bytes((audio / "a.wav").read_bytes())
    with pytest.raises(InputError, match="another audio, files; choose another --out"):
        score.main(config(other, detector, scored))


@pytest.mark.ray
def test_audio_scores_and_a_checkpoint_in_the_released_layout_can_be_on_s3(
    scored: Path, audio: Path, detector: Path, bucket: str, tmp_path: Path
) -> None:
    released = tmp_path / "released.ckpt"
    torch.save({"state_dict": load_detector(detector).detector.state_dict()}, released)
    remote = Folder(bucket)
    remote.commit("models/released.ckpt", released.read_bytes())
    for name in ("a.wav", "deep/f.m4a", "notes.txt"):
        remote.commit(f"calls/{name}", (audio / name).read_bytes())
    s3 = config(f"{bucket}/calls", f"{bucket}/models/released.ckpt", f"{bucket}/scores")
    score.main(replace(s3, variant="tiny", window=Names(["whole", "window:0.1:mean"])))
    scores, windows = find_score_folders(Folder(f"{bucket}/scores"))
    assert windows.uri == f"{bucket}/scores/window-0.1-mean" and windows.exists("scores.json")
    names = [info.name for info in scores.find("scores")]
    rows = {row["id"]: row for name in names for row in tables.read_table(scores, name).to_pylist()}
    local = {row["path"]: row for row in pq.read_table(scored / "scores").to_pylist()}
    assert rows.keys() == {"a", "deep/f"}
    for name, path in (("a", "a.wav"), ("deep/f", "deep/f.m4a")):
        assert rows[name]["score"] == pytest.approx(local[path]["score"], abs=1e-5)
    assert tables.read_table(scores, "rejects.parquet")["reason"].to_pylist() == ["not_audio"]


@pytest.mark.ray
def test_scores_of_a_registered_detector_have_an_mlflow_run_for_each_policy_below_its_training(
    scored: Path, audio: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tags = {"bonafide.training": "feedbeef"}
    with tracking.run(uri, "bonafide", job="train", name="train", tags=tags) as training:
        pass
    version_tags = {"weights": load_detector(detector).digest, "error": 0.1, "validation": "v"}
    copy = tmp_path / "copy.safetensors"
    shutil.copy(detector, copy)
    registered = tracking.register(
        uri, "calls", str(copy), run_id=str(training.run_id), tags=version_tags, description=""
    )
    assert registered is not None
    fitted_on = write_system(tmp_path / "validation", weights_digest=version_tags["weights"])
    flags = ["--detector", "models:/calls@best", "--tracking-uri", uri, "--false-alarm", "0.01"]
    for _ in range(2):  # the second one changes nothing
        calibrate = ["--scores", str(fitted_on), "--out", str(tmp_path / "calibration.json"), *flags]
        assert run_command("calibrate", calibrate) == 0
        printed = capsys.readouterr().out
        assert f"stored in the metadata of {copy}\n" in printed
        assert "stored in the tag calibration of models:/calls/1\n" in printed
    out = tmp_path / "scores"
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.wav").write_bytes((audio / "a.wav").read_bytes())
    for _ in range(2):
        asked = replace(config(one, "models:/calls@best", out), tracking_uri=uri)
        score.main(replace(asked, window=Names(["whole", "window:0.1:mean"])))
    folders = [out / "whole", out / "window-0.1-mean"]
    records = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    assert {record["checkpoint"] for record in records} == {"models:/calls/1"}
    record, none = (record["calibration"] for record in records)
    assert record == json.loads((tmp_path / "calibration.json").read_text()) and none is None
    printed = capsys.readouterr().out
    assert "llr of whole fp32: tag calibration of models:/calls/1\n" in printed
    assert (
        "no llr of window:0.1:mean fp32: the detector has calibrations for whole fp32 only; fit one with"
        in printed
    )
    systems = ["calls v1 (step 7) · whole", "calls v1 (step 7) · window:0.1:mean"]
    assert [record["system"] for record in records] == systems
    (row,) = pq.read_table(out / "whole/scores").to_pylist()
    (before,) = (row for row in pq.read_table(scored / "scores").to_pylist() if row["path"] == "a.wav")
    assert row["score"] == pytest.approx(before["score"], abs=1e-5)
    assert row["llr"] == pytest.approx(record["scale"] * row["score"] + record["offset"], abs=1e-5)
    (row,) = pq.read_table(out / "window-0.1-mean/scores").to_pylist()
    assert row["llr"] is row["verdict"] is None
    client = MlflowClient(uri)
    experiment = client.get_run(str(training.run_id)).info.experiment_id
    (calibrated, _) = client.search_runs([experiment], "tags.`bonafide.job` = 'calibrate'")
    assert calibrated.data.metrics["calibration/scale"] == record["scale"]
    found = client.search_runs([experiment], "tags.`bonafide.job` = 'score'")
    runs = {run.data.tags["bonafide.system"]: run for run in found}
    assert len(found) == 2
    assert [runs[system].info.run_id for system in systems] == [
        record["tracking"]["run_id"] for record in records
    ]
    for policy, system in zip(("whole", "window:0.1:mean"), systems, strict=True):
        assert runs[system].data.tags["mlflow.parentRunId"] == training.run_id
        assert runs[system].data.tags["bonafide.policy"] == policy
        assert runs[system].data.metrics["scored/utterances"] == 1


@pytest.mark.ray
def test_device_cuda_without_a_gpu_is_an_error(
    audio: Path, detector: Path, tmp_path: Path, cluster: None
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="--device cuda needs a GPU"):
        score.main(replace(config(audio, detector, tmp_path / "scores"), device="cuda"))


def test_an_id_is_the_path_without_its_ending_if_that_is_unique(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    for name in ("a.wav", "a.flac", "b.wav", "b", "deep/a.wav", "c.x.ogg"):
        Folder(str(root)).commit(name, b"x")
    rows = plan_folder(Folder(str(root)), Folder(str(tmp_path / "out"))).rows
    assert dict(zip(rows["path"].to_pylist(), rows["id"].to_pylist(), strict=True)) == {
        "a.flac": "a.flac",
        "a.wav": "a.wav",
        "b": "b",
        "b.wav": "b.wav",
        "c.x.ogg": "c.x",
        "deep/a.wav": "deep/a",
    }


def test_a_name_that_is_not_utf_8_is_rejected(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    Folder(str(root)).commit("a.wav", b"x")
    (root / "caf\udce9.wav").write_bytes(b"x")
    plan = plan_folder(Folder(str(root)), Folder(str(tmp_path / "out")))
    assert plan.rows["path"].to_pylist() == ["a.wav"]
    assert [(reject["path"], reject["reason"]) for reject in plan.rejects] == [
        ("caf\\udce9.wav", "name_not_text")
    ]


def test_files_that_are_left_out_or_must_not_be_opened_are_rejected_in_the_plan(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    for name in ("a.wav", "notes.txt", "._a.wav", ".git/config", "lost+found/b.wav", "closed/c.wav"):
        Folder(str(root)).commit(name, b"x")
    (root / "loop.wav").symlink_to("loop.wav")
    (root / "again").symlink_to(root, target_is_directory=True)
    os.mkfifo(root / "pipe.wav")
    (root / "zeros.wav").symlink_to("/dev/zero")
    (root / "closed").chmod(0)
    with ordinary_permissions():
        plan = plan_folder(Folder(str(root)), Folder(str(tmp_path / "out")))
    (root / "closed").chmod(0o755)
    assert plan.rows["path"].to_pylist() == ["a.wav", "notes.txt"]
    assert {reject["path"]: reject["reason"] for reject in plan.rejects} == {
        "._a.wav": "hidden",
        ".git/config": "hidden",
        "lost+found/b.wav": "system",
        "closed": "unreadable",
        "loop.wav": "link-loop",
        "again": "link-loop",
        "pipe.wav": "special",
        "zeros.wav": "special",
    }
    assert all(reject["detail"] for reject in plan.rejects)
    assert plan.num_found == 10


def test_scoring_resumes_after_a_change_of_permissions_or_of_hidden_files_only(tmp_path: Path) -> None:
    root = Folder(str(tmp_path / "calls"))
    for name in ("a.wav", ".DS_Store"):
        root.commit(name, b"x")

    def identity() -> object:
        return plan_folder(root, Folder(str(tmp_path / "out"))).identity

    before = identity()
    (tmp_path / "calls/a.wav").chmod(0o600)
    root.commit(".DS_Store", b"another window")
    assert identity() == before
    root.commit("a.wav", b"y")
    assert identity() != before


def test_a_file_that_cannot_be_read_is_rejected_and_the_others_are_decoded(
    audio: Path, tmp_path: Path
) -> None:
    root = tmp_path / "calls"
    for name in ("a.wav", "closed.wav", "z.wav"):
        Folder(str(root)).commit(name, (audio / "a.wav").read_bytes())
    (root / "memory.wav").symlink_to("/proc/self/mem")
    (root / "dangling.wav").symlink_to("nowhere.wav")
    (root / "closed.wav").chmod(0)
    out = Folder(str(tmp_path / "out"))
    with ordinary_permissions():
        rows = plan_folder(Folder(str(root)), out).rows.to_pylist()
        part = AudioFiles(Folder(str(root))).decode(rows, out, "attempts/part")
    assert [rows[position]["path"] for position in part.positions] == ["a.wav", "z.wav"]
    assert {reject["path"]: reject["reason"] for reject in part.rejects} == {
        "closed.wav": "unreadable",
        "dangling.wav": "missing",
        "memory.wav": "unreadable",
    }


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_file_of_any_name_is_decoded(
    place: str, audio: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root, names = Folder(str(tmp_path / "calls")), NAMES
    if place == "s3":
        root = Folder(f"{request.getfixturevalue('bucket')}/calls")
        names = tuple(name for name in NAMES if not any(one in name for one in NOT_ON_THE_TEST_SERVER))
    for name in names:
        root.commit(f"{name}.wav", (audio / "a.wav").read_bytes())
    out = Folder(str(tmp_path / "out"))
    plan = plan_folder(root, out)
    part = AudioFiles(root).decode(plan.rows.to_pylist(), out, "attempts/part")
    assert (plan.rejects, part.rejects) == ([], [])
    assert sorted(plan.rows["id"].to_pylist()) == sorted(names)


def num_bytes_read() -> int:
    """Bytes that this process has read from files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def riff(num_bytes: int) -> bytes:
    """The header of a wav file of 16 kHz PCM16 that states so many bytes of samples."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + num_bytes, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", num_bytes)
    )


def test_a_monster_is_rejected_without_being_read(audio: Path, tmp_path: Path) -> None:
    monsters = {
        "disk.img": (b"", 40 * 2**30),
        "dump.wav": (b"<html>", 10 * 2**30),
        "model.bin": (b"PK\x03\x04", 5 * 2**30),
        "text.txt": (b"words", 100 * 2**20),
        "day.wav": (riff(2**32 - 100), 2**32 - 56),  # stated and there, but 37 hours
        "tail.wav": (riff(32_000), 6 * 2**30),
    }
    root = tmp_path / "calls"
    Folder(str(root)).commit("a.wav", (audio / "a.wav").read_bytes())
    for name, (head, size) in monsters.items():
        (root / name).write_bytes(head)
        os.truncate(root / name, size)  # sparse
    out = Folder(str(tmp_path / "out"))
    plan = plan_folder(Folder(str(root)), out)
    assert len(divide(plan.rows["seconds"].to_numpy(), 1800.0)) <= len(plan.rows)
    rows = plan.rows.to_pylist()
    before = num_bytes_read()
    part = AudioFiles(Folder(str(root))).decode(rows, out, "attempts/part")
    assert num_bytes_read() - before < 4 * 2**20
    assert [rows[position]["path"] for position in part.positions] == ["a.wav"]
    reasons = {reject["path"]: reject["reason"] for reject in part.rejects}
    assert reasons.pop("tail.wav") in ("too_large", "trailing_data")
    assert reasons == dict.fromkeys(("disk.img", "dump.wav", "model.bin", "text.txt"), "not_audio") | {
        "day.wav": "too_long"
    }


def test_a_large_file_without_a_fault_is_decoded(tmp_path: Path) -> None:
    root, num_bytes = tmp_path / "calls", LARGE_BYTES + 2**20
    Folder(str(root)).commit("a.wav", riff(num_bytes))
    with (root / "a.wav").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x00\x10" * 1000)
    os.truncate(root / "a.wav", 44 + num_bytes)
    out = Folder(str(tmp_path / "out"))
    rows = plan_folder(Folder(str(root)), out).rows.to_pylist()
    part = AudioFiles(Folder(str(root))).decode(rows, out, "attempts/part")
    assert part.lengths == [len(audio) for audio in part.audio] == [num_bytes // 2]


def test_endings_tell_only_how_long_a_file_may_be() -> None:
    assert set(LOSSLESS_ENDINGS) <= AUDIO_SUFFIXES


def test_input_that_cannot_be_scored_is_an_error(tmp_path: Path) -> None:
    for folder, message in (("nowhere", "no such folder"), ("empty", "the folder is empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=message):
            plan_folder(Folder(str(tmp_path / folder)), Folder(str(tmp_path / "out")))
    Folder(str(tmp_path / "hidden")).commit(".a.wav", b"x")
    with pytest.raises(InputError, match="nothing to score: 1 hidden"):
        plan_folder(Folder(str(tmp_path / "hidden")), Folder(str(tmp_path / "out")))
    with pytest.raises(InputError, match="this is a file, not a folder"):
        plan_folder(Folder(str(tmp_path / "hidden/.a.wav")), Folder(str(tmp_path / "out")))
    with pytest.raises(InputError, match="choose an --out outside"):
        plan_folder(Folder(str(tmp_path)), Folder(str(tmp_path / "scores")))
    for store, audio in (("", ""), ("s", "a")):
        with pytest.raises(InputError, match=r"either --store, .* or --audio"):
            ScoreConfig(checkpoint="c", out="o", store=store, audio=audio)
    with pytest.raises(InputError, match="select from a store"):
        ScoreConfig(checkpoint="c", out="o", audio="a", corpora=Names(["x"]))
    with pytest.raises(InputError, match="select from a store"):
        ScoreConfig(checkpoint="c", out="o", audio="a", use="validation")
    with pytest.raises(InputError, match=r"--gpus-per-worker 1\.5"):
        ScoreConfig(checkpoint="c", out="o", audio="a", gpus_per_worker=1.5)


def test_a_damaged_or_missing_shard_is_a_user_error(tmp_path: Path) -> None:
    store, _ = make_store(2, tmp_path)
    rows = read_index(store, "noise", "noise-0").to_pylist()
    name = tar_name("noise", "noise-0")
    store.commit(name, bytes(len(store.read(name))))
    with pytest.raises(InputError, match=f"{name}: .* damaged at {rows[0]['uid']}; `bonafide verify`"):
        StoredUtterances(store).decode(rows, store, "unused")
    store.delete(name)
    with pytest.raises(InputError, match=f"{name}: .* missing; `bonafide verify`"):
        StoredUtterances(store).decode(rows, store, "unused")


@pytest.mark.parametrize(
    ("text", "policies"),
    [
        ("whole", ["whole"]),
        ("window:4.0:mean,whole,window:4.04:first", ["window:4:mean", "whole", "window:4.04:first"]),
    ],
)
def test_windows_are_different_policies(text: str, policies: list[str], tmp_path: Path) -> None:
    flags = ["--checkpoint", "c", "--audio", "a", "--out", "o"]
    read = parse(ScoreConfig, [*flags, "--window", text], command="bonafide score")
    assert list(read.window) == policies
    (tmp_path / "config.toml").write_text(to_toml(read))
    assert parse(ScoreConfig, ["--config", str(tmp_path / "config.toml")], command="bonafide score") == read
    for wrong in ("whole,whole", "window:4:mean,window:4.0:mean", "whole,", ""):
        with pytest.raises(
            InputError, match="expected window policies separated by commas, none repeated, got"
        ):
            parse(ScoreConfig, [*flags, "--window", wrong], command="bonafide score")
    with pytest.raises(InputError, match="unknown window policy 'mean'"):
        parse(ScoreConfig, [*flags, "--window", "whole,mean"], command="bonafide score")


def test_a_folder_of_several_policies_takes_more_of_them_but_no_other_scores(tmp_path: Path) -> None:
    def identities(weights: str, *policies: str) -> dict[str, dict[str, str]]:
        return {policy: {"weights_digest": weights, "policy": policy} for policy in policies}

    out, single = Folder(str(tmp_path / "out")), Folder(str(tmp_path / "single"))
    for wanted in (identities("a", "whole", "window:4:mean"), identities("a", "whole", "window:2:max")):
        check_folders(out, wanted)
        claim_folders(out, wanted)
    names = [folder.uri.rpartition("/")[2] for folder in find_score_folders(out)]
    assert names == ["whole", "window-2-max", "window-4-mean"]
    with pytest.raises(InputError, match="out/window-2-max: holds scores with another weights_digest"):
        check_folders(out, identities("b", "window:3:max", "window:2:max"))
    with pytest.raises(InputError, match="out/whole: holds scores with another weights_digest"):
        check_folders(out, identities("b", "window:3:max", "window:3:mean"))
    with pytest.raises(InputError, match="holds a folder for each of several windows; choose another --out"):
        check_folders(out, identities("a", "whole"))
    check_folders(Folder(f"{out.uri}/whole"), identities("a", "whole"))
    claim_folders(single, identities("a", "whole"))
    assert find_score_folders(single) == [single]
    with pytest.raises(InputError, match="holds scores of one window; choose another --out for several"):
        check_folders(single, identities("a", "whole", "window:4:mean"))


def test_rejects_of_a_killed_worker_do_not_count(tmp_path: Path) -> None:
    out, scores = Folder(str(tmp_path)), pa.table({"id": ["a"]})
    reject = to_reject_row({"path": "b"}, Reject("silent", "d"))
    out.commit(part_rejects_name(0), b"of a worker that was killed before it wrote the scores")
    write_part(out, 0, PartTables(scores))
    write_part(out, 1, PartTables(scores, pa.Table.from_pylist([reject], REJECT_COLUMNS)))
    unfinished = f"{part_rejects_name(1)}.0123{STAGED_SUFFIX}"
    out.commit(unfinished, b"PAR1")
    assert read_rejects(out, 2) == [reject]
    assert missing_parts(out, 3) == [2]


def test_a_part_has_the_utterances_that_start_within_its_seconds() -> None:
    assert divide(np.array([1.0, 1.0, 1.0, 5.0, 1.0]), 2.0) == [2, 2, 1]


def settings(memory_bytes: float, share: float = 0.8) -> ScorerSettings:
    return ScorerSettings("cpu", 1, "fp32", 30.0, memory_bytes, share)


def test_an_utterance_that_does_not_fit_into_memory_is_rejected_and_its_neighbours_are_scored(
    detector: Path,
) -> None:
    rng = np.random.default_rng(0)
    audio = [rng.standard_normal(length).astype(np.float32) for length in (16_000, 160_000, 8_000)]
    load = load_detector(detector)
    free = PartScorer(lambda: load.detector, settings(0.0)).score(audio, 0, 3, "whole", ())
    limited = PartScorer(lambda: load.detector, settings(8 * 2**20))
    scores = limited.score(audio, 0, 3, "whole", ())
    assert free is not None and scores is not None
    assert not free.rejects and np.isfinite(free.logits).all()
    assert {position: reject.reason for position, reject in scores.rejects.items()} == {
        1: "too_long_for_memory"
    }
    assert scores.rejects[1].detail.startswith(
        "10.0 s need 0.01 GiB, and a scorer has 0.01 GiB; use --window"
    )
    np.testing.assert_allclose(scores.logits[[0, 2]], free.logits[[0, 2]], atol=1e-5)
    windows = limited.score(audio, 0, 3, "window:1:mean", ())
    assert windows is not None and not windows.rejects


def test_a_scorer_without_memory_for_its_detector_is_refused_at_once(detector: Path) -> None:
    with pytest.raises(
        InputError, match=r"a scorer has 0\.00 GiB beside its detector .* use fewer --num-workers"
    ):
        PartScorer(lambda: load_detector(detector).detector, settings(0.0, share=1e-6))


@contextlib.contextmanager
def address_space_left(num_bytes: int) -> Iterator[None]:
    """Let this process allocate only so much more, as `ulimit -v` does."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (num_pages * resource.getpagesize() + num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_limit_of_the_process_is_known_and_running_into_it_is_no_death(detector: Path) -> None:
    load = load_detector(detector)
    rng = np.random.default_rng(0)
    audio = [rng.standard_normal(length).astype(np.float32) for length in (16_000, 16_000 * 300)]
    with address_space_left(300 * 2**20):
        careful = PartScorer(lambda: load.detector, settings(0.0)).score(audio, 0, 2, "whole", ())
        heedless = PartScorer(lambda: load.detector, settings(2**40))
        assert heedless.score(audio, 0, 2, "whole", ()) is None
        alone = heedless.score(audio, 0, 1, "whole", ())
    assert careful is not None and alone is not None
    assert {position: reject.reason for position, reject in careful.rejects.items()} == {
        1: "too_long_for_memory"
    }
    np.testing.assert_allclose(careful.logits[0], alone.logits[0], atol=1e-5)


def test_an_error_that_is_not_about_memory_ends_the_command(
    detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = PartScorer(lambda: load_detector(detector).detector, settings(2**30))
    monkeypatch.setattr(scorer.scorer.detector, "forward", lambda *_, **__: torch.ones(2) + torch.ones(3))
    with pytest.raises(RuntimeError, match="size of tensor"):
        scorer.score([np.ones(8_000, np.float32)], 0, 1, "whole", ())


def test_an_utterance_without_a_finite_score_is_rejected_and_its_neighbours_are_scored(
    detector: Path,
) -> None:
    scorer = PartScorer(lambda: load_detector(detector).detector, settings(2**30))
    audio = [np.ones(length, np.float32) for length in (9_000, 8_000)]
    audio[0][5] = np.nan
    scores = scorer.score(audio, 0, 2, "whole", ())
    assert scores is not None
    assert {position: reject.reason for position, reject in scores.rejects.items()} == {0: "not_finite"}
    assert np.isnan(scores.logits[0]).all() and np.isfinite(scores.logits[1]).all()


@pytest.mark.parametrize(
    ("num_workers", "machines", "num_threads", "per_scorer"),
    [
        (1, [1], 1, 0.5),
        (1, [2], 2, 1.0),
        (4, [2], 1, 0.25),
        (16, [64], 4, 2.0),
        (1, [4, 4, 4, 4], 4, 2.0),
        (5, [16, 4], 4, 2.0),
        (1, [], 1, 0.5),
    ],
)
def test_scorers_use_all_cores_and_reserve_half_of_them(
    num_workers: int, machines: list[int], num_threads: int, per_scorer: float
) -> None:
    shares = share_cpus(num_workers, machines)
    assert (shares.num_threads, shares.per_scorer) == (num_threads, per_scorer)
    assert shares.per_scorer <= min(machines, default=1), "it must fit on each machine"
    assert num_workers * shares.per_scorer <= sum(machines or [1]) / 2
    assert 1 <= shares.num_scorers_per_machine <= num_workers


@pytest.mark.parametrize("num_utterances", [2, 15, 16, 17, 1000])
def test_the_pieces_of_a_span_cover_it(num_utterances: int) -> None:
    pieces = Span(3, "whole", 5, 5 + num_utterances, MAX_DEATHS).split()
    assert len(pieces) == min(NUM_PIECES, num_utterances)
    covered = [position for piece in pieces for position in range(piece.begin, piece.end)]
    assert covered == list(range(5, 5 + num_utterances))
    assert all((piece.part, piece.policy, piece.num_deaths) == (3, "whole", 0) for piece in pieces)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files, one of which is that of a deadly scorer."""
    root, rng = tmp_path_factory.mktemp("five") / "calls", np.random.default_rng(0)
    root.mkdir()
    for number in range(5):
        num_samples = DEADLY_SAMPLES if number == 3 else 8_000 + number
        soundfile.write(root / f"{number}.wav", 0.1 * rng.standard_normal(num_samples), 16_000)
    return root


@pytest.fixture(params=[pytest.param("on_ray", marks=pytest.mark.ray), "alone"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module whose processes score."""
    is_alone = request.param == "alone"
    if not is_alone:
        request.getfixturevalue("cluster")
    monkeypatch.setattr(alone, "is_enough", lambda _: is_alone)
    return alone if is_alone else on_ray


@pytest.mark.parametrize(
    ("scorer", "reason", "num_deaths"),
    [(DeadlyScorer, "kills_scorer", 2 * MAX_DEATHS), (ShortOfMemoryScorer, "out_of_memory", 0)],
)
def test_the_one_utterance_that_cannot_be_scored_under_a_policy_is_found_and_all_others_are_scored(
    scorer: type[PartScorer],
    reason: str,
    num_deaths: int,
    five: Path,
    detector: Path,
    tmp_path: Path,
    executor: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(executor, "PartScorer", scorer)
    out = tmp_path / "scores"
    asked = replace(config(five, detector, out), part_seconds=60.0, window=Names(["window:4:mean", "whole"]))
    assert score.main(asked) == 1
    expected = {"0": 8_000, "1": 8_001, "2": 8_002, "4": 8_004}
    for folder, scores in (("whole", expected), ("window-4-mean", expected | {"3": DEADLY_SAMPLES})):
        rows = pq.read_table(out / folder / "scores").to_pylist()
        assert {row["id"]: row["score"] for row in rows} == scores
    assert not pq.read_table(out / "window-4-mean/rejects.parquet").num_rows
    [reject] = pq.read_table(out / "whole/rejects.parquet").to_pylist()
    assert (reject["path"], reject["id"], reject["reason"]) == ("3.wav", "3", reason)
    assert reject["seconds"] == pytest.approx(DEADLY_SAMPLES / 16_000)
    printed = capfd.readouterr().err
    deaths = [line for line in printed.splitlines() if line.startswith("a scorer died")]
    assert len(deaths) == num_deaths
    names = ["5 utterances of part 0, from 3.wav", "3.wav"]
    assert deaths == [
        f"a scorer died while it scored {name}, under whole" for name in names for _ in range(num_deaths // 2)
    ]
    losses = [line for line in printed.splitlines() if "have no score" in line]
    table = out / "whole/rejects.parquet"
    assert losses == [f"bonafide score: 1 of 5 have no score under whole: 1 {reason}; {table} lists them"]


def test_scorers_that_die_whatever_they_score_end_the_command(
    five: Path, detector: Path, tmp_path: Path, executor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_DEATHS_IN_ROW", 1)
    monkeypatch.setattr(executor, "PartScorer", DeadlyScorer)
    with pytest.raises(InputError, match=r"1 scorers died without a score, .* 5 utterances of part 0"):
        score.main(replace(config(five, detector, tmp_path / "dying"), part_seconds=60.0))
    monkeypatch.setattr(executor, "PartScorer", StillbornScorer)
    with pytest.raises(InputError, match="3 scorers in a row died while they loaded the detector"):
        score.main(config(five, detector, tmp_path / "stillborn"))


@pytest.mark.ray
def test_a_scoring_decodes_although_the_scorers_of_another_job_hold_all_other_cpus(
    five: Path, detector: Path, tmp_path: Path, cluster: None
) -> None:
    import ray

    other: Any = (
        ray.remote(PartScorer)
        .options(num_cpus=1)
        .remote(lambda: load_detector(detector).detector, settings(1e9))
    )
    try:
        ray.get(other.memory_limit.remote())
        assert score.main(replace(config(five, detector, tmp_path / "scores"), part_seconds=0.5)) == 0
    finally:
        ray.kill(other)


def write_calibration(folder: Path, detector: Path, middle: float, **changes: object) -> str:
    """Write a calibration of whole utterances in fp32 that doubles the distance from a score; returns its path."""
    record = {
        "scale": 2.0,
        "offset": -2 * middle,
        "prior": 0.5,
        "weights_digest": load_detector(detector).digest,
        "policy": "whole",
        "precision": "fp32",
        "system": "tiny",
        "snapshot": "0123",
        "corpora": ["alpha"],
        "scores_digest": "4567",
        "num_bonafide": 10,
        "num_spoof": 10,
        "threshold": {"llr": 0.0, "false_alarm": None, "is_guaranteed": False},
    }
    path = folder / f"calibration-{len(list(folder.iterdir()))}.json"
    path.write_text(from_record(record | changes).to_json())
    return str(path)


def test_a_calibration_of_other_weights_policies_or_precisions_is_refused(
    five: Path, detector: Path, tmp_path: Path
) -> None:
    def refuse(message: str, *files: str, **changes: Any) -> None:
        asked = replace(config(five, detector, tmp_path / "scores"), calibration=Names(files), **changes)
        with pytest.raises(InputError, match=message):
            score.main(asked)
        assert not (tmp_path / "scores").exists()

    whole = write_calibration(tmp_path, detector, 0)
    other = write_calibration(tmp_path, detector, 0, weights_digest="f" * 64)
    window = write_calibration(tmp_path, detector, 0, policy="window:2:max")
    refuse(f"{other}: the calibration is for the weights ffff", other)
    refuse("is for the window that is scored window:2:max, and these are scores with whole", window)
    refuse(
        "is for the arithmetic precision fp32, and these are scores with bf16; fit one",
        whole,
        precision="bf16",
    )
    again = write_calibration(tmp_path, detector, 1)
    refuse(f"{whole} and {again} are both for whole; give one of them", whole, again)
    refuse("no such file; write it with `bonafide calibrate", str(tmp_path / "none.json"))
    (tmp_path / "wrong.json").write_text("[]")
    refuse(r"wrong\.json: not a calibration by `bonafide calibrate`", str(tmp_path / "wrong.json"))


def test_calibrations_in_the_metadata_are_for_their_own_policy_precision_and_weights(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = parse_calibration(Path(write_calibration(tmp_path, detector, 0)).read_bytes(), "file")
    stored = with_calibration(None, whole, "metadata")
    stored = with_calibration(stored, replace(whole, policy="window:2:max"), "metadata")
    other = replace(whole, precision="bf16", weights_digest="f" * 64)
    stored = with_calibration(stored, other, "metadata")
    loaded = replace(load_detector(detector), metadata={METADATA_KEY: stored})
    checkpoint = Checkpoint(detector, str(detector), "detector")
    asked = replace(config("a", detector, "o"), window=Names(["whole", "window:4:mean"]))
    chosen = choose_calibrations(asked, {}, checkpoint, loaded)
    assert chosen == {"whole": whole}
    known = "whole bf16, whole fp32, window:2:max fp32"
    printed = capsys.readouterr().out
    assert f"no llr of window:4:mean fp32: the detector has calibrations for {known} only" in printed
    assert choose_calibrations(replace(asked, precision="bf16"), {}, checkpoint, loaded) == {}
    validation = replace(asked, store="s", audio="", use="validation")
    assert choose_calibrations(validation, {}, checkpoint, loaded) == {}, "it was fitted on these"
    with pytest.raises(InputError, match=r"metadata of .*: not calibrations by `bonafide calibrate`"):
        choose_calibrations(asked, {}, checkpoint, replace(loaded, metadata={METADATA_KEY: "[]"}))


def test_scores_with_another_calibration_need_another_folder(detector: Path, tmp_path: Path) -> None:
    record = json.loads(Path(write_calibration(tmp_path, detector, 0)).read_text())
    out = Folder(str(tmp_path / "out"))
    claim_folders(out, {"whole": {"policy": "whole", "calibration": record}})
    check_folders(out, {"whole": {"policy": "whole", "calibration": record}})
    for calibration in (None, record | {"offset": 1.0}):
        with pytest.raises(InputError, match="scores with another calibration; choose another --out"):
            check_folders(out, {"whole": {"policy": "whole", "calibration": calibration}})
    before = Folder(str(tmp_path / "before"))  # of an earlier version
    claim_folders(before, {"whole": {"policy": "whole"}})
    check_folders(before, {"whole": {"policy": "whole", "calibration": None}})


@pytest.mark.ray
def test_the_validation_utterances_of_a_recipe_are_scored(
    place: Path, detector: Path, tmp_path: Path
) -> None:
    store = Folder(str(place / "store"))
    plan = plan_validation(store, "latest", (), Recipe())
    assert set(plan.rows["split"].to_pylist()) == {"validation"} and len(plan.rows) == 16
    assert plan.identity["use"] == "validation" and plan.identity["corpora"] == ["asvspoof2019_la"]
    asked = ScoreConfig(
        store=store.uri, use="validation", checkpoint=str(detector), out=str(tmp_path / "out")
    )
    assert score.main(replace(asked, num_workers=1)) == 0
    scored = load_scores(Folder(asked.out))
    assert sorted(scored.utterances.uids.to_pylist()) == sorted(plan.rows["uid"].to_pylist())
    assert scored.identity["utterances"] == plan.identity["utterances"]
    other = plan_validation(store, "latest", (), Recipe(name="r", validation=("asvspoof2019_la/train",)))
    assert set(other.rows["split"].to_pylist()) == {"train"}
    assert other.identity["utterances"] != plan.identity["utterances"]
    for recipe, corpora, message in (
        (
            Recipe(validation=()),
            (),
            "the recipe validates with no utterance of asvspoof2019_la; name another",
        ),
        (
            Recipe(name="r", corpora=("mlaad",)),
            (),
            "recipe r trains and validates with none of asvspoof2019_la",
        ),
        (Recipe(), ("mlaad",), "snapshot 000001 has no mlaad"),
    ):
        with pytest.raises(InputError, match=message):
            plan_validation(store, "latest", corpora, recipe)
    with pytest.raises(InputError, match="--recipe decides what validates a training; add --use validation"):
        ScoreConfig(checkpoint="c", out="o", store="s", recipe="antideepfake")


class CountingExecutor(alone.AloneExecutor):
    """Counts how often a part is decoded."""

    num_decoded = 0

    def decode(self, part: int) -> Any:
        """See `Executor`."""
        CountingExecutor.num_decoded += 1
        return super().decode(part)


def test_without_ray_a_part_is_decoded_once_and_has_the_scores_of_every_policy(
    five: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ray() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(alone, "has_ray", lambda: False)
    monkeypatch.setattr(score, "ray_session", no_ray)
    monkeypatch.setattr(alone, "AloneExecutor", CountingExecutor)
    policies = Names(["whole", "window:0.2:max", "window:0.2:first"])
    asked = replace(config(five, detector, tmp_path / "scores"), part_seconds=60.0, window=policies)
    ranked = sorted(float(logits[1] - logits[0]) for logits in score_one_by_one(five, detector).values())
    middle = (ranked[1] + ranked[2]) / 2
    calibration = write_calibration(tmp_path, detector, middle)
    assert score.main(replace(asked, calibration=Names([calibration]))) == 0
    assert CountingExecutor.num_decoded == 1
    for policy in policies:
        folder = tmp_path / "scores" / policy_folder(policy)
        table = pq.read_table(folder / "scores")
        record = json.loads((folder / "scores.json").read_text())
        assert (record["calibration"] is not None) == (policy == "whole")
        if policy == "whole":
            llr, difference = (table[name].to_numpy() for name in ("llr", "score"))
            np.testing.assert_allclose(llr, 2 * difference - 2 * middle, atol=1e-4)
            decided = np.where(difference >= middle, "bonafide", "spoof")
            assert (table["verdict"].to_numpy() == decided).all() and set(decided) == {"bonafide", "spoof"}
        else:
            assert table["llr"].null_count == table["verdict"].null_count == len(table)
        rows = {row["path"]: row["score"] for row in table.to_pylist()}
        expected = score_one_by_one(five, detector, policy)
        differences = {path: logits[1] - logits[0] for path, logits in expected.items()}
        assert rows == pytest.approx(differences, abs=1e-5)


def test_a_decoder_that_dies_every_time_ends_the_command_without_ray(
    five: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "is_enough", lambda _: True)
    monkeypatch.setattr(alone, "decode_part", die_decoding)
    with pytest.raises(
        InputError, match=r"part 0, which begins with 0\.wav, cannot be decoded: .* died 4 times"
    ):
        score.main(replace(config(five, detector, tmp_path / "scores"), part_seconds=60.0))


def make_none() -> Detector:
    raise AssertionError("nothing is scored")


def test_a_decoder_that_is_killed_at_the_end_is_not_replaced(five: Path, tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    with alone.AloneExecutor(plan_folder(Folder(str(five)), out).audio_source, out, make_none) as executor:
        pass
    with pytest.raises(ProcessDiedError, match="the command is ending"):
        executor._start()


@pytest.mark.parametrize(
    ("num_parts", "address", "is_enough"),
    [(0, None, True), (1, None, True), (2, None, False), (1, "a:1", False)],
)
def test_ray_starts_for_several_parts_or_a_cluster_that_is_named(
    num_parts: int, address: str | None, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert alone.is_enough(num_parts) == is_enough


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_refused(detector: Path, tmp_path: Path) -> None:
    digest = load_detector(detector).digest
    assert load_again(detector, None, digest).config == load_detector(detector).detector.config
    other = tmp_path / "other.safetensors"
    save_detector(Detector(DetectorConfig(VARIANTS["tiny"])), other, {})
    with pytest.raises(InputError, match=r"other\.safetensors: was replaced while it was read"):
        load_again(other, None, digest)


@pytest.mark.ray
def test_utterances_of_a_store_that_fit_into_memory_under_one_policy_only_are_listed_under_the_other(
    place: Path, detector: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ScoreConfig(
        store=str(place / "store"),
        corpora=Names(["asvspoof2019_la"]),
        checkpoint=str(detector),
        out=str(tmp_path / "scores"),
        window=Names(["whole", "window:0.2:mean"]),
        memory_gib=0.0005,
        part_seconds=10.0,
        num_workers=1,
    )
    assert score.main(asked) == 1
    out, windows = tmp_path / "scores/whole", tmp_path / "scores/window-0.2-mean"
    parts = sorted((windows / "scores").iterdir())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").rglob("part-*.parquet")}
    parts[1].unlink()  # as if the command had been killed when only the other policy had this part
    assert score.main(asked) == 1
    printed = capfd.readouterr()
    assert f"whole: {len(parts)} parts planned, {len(parts)} already scored, 0 to score" in printed.out
    assert f"mean: {len(parts)} parts planned, {len(parts) - 1} already scored, 1 to score" in printed.out
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path for path in before if after[path] != before[path]] == [parts[1]]

    table = pq.read_table(windows / "scores")
    assert (table.num_rows, table.schema.names) == (60, UTTERANCE_COLUMNS.names)
    assert set(zip(table["codec"].to_pylist(), table["sample_rate"].to_pylist(), strict=True)) == {
        ("flac", 16_000)
    }
    records = [json.loads((folder / "scores.json").read_text()) for folder in (out, windows)]
    assert [record["system"] for record in records] == [
        "detector (step 7) · whole",
        "detector (step 7) · window:0.2:mean",
    ]
    alone_again = parse(ScoreConfig, ["--config", str(windows / "config.toml")], command="bonafide score")
    assert score.main(alone_again) == 0, "its settings are those of a command for this policy"
    assert json.loads((windows / "scores.json").read_text()) == records[1]
    loaded = [load_scores(folder) for folder in find_score_folders(Folder(asked.out))]
    assert [scores.system for scores in loaded] == [record["system"] for record in records]
    rows = pq.read_table(out / "scores").to_pylist()
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    assert len(rows) + len(rejects) == 60
    assert max(row["seconds"] for row in rows) < min(reject["seconds"] for reject in rejects)
    assert {(reject["corpus"], reject["reason"]) for reject in rejects} == {
        ("asvspoof2019_la", "too_long_for_memory")
    }
    assert {reject["id"] for reject in rejects}.isdisjoint({row["id"] for row in rows})
    record = json.loads((out / "scores.json").read_text())
    assert (record["num_utterances"], record["num_rejected"]) == (len(rows), len(rejects))
    line = f"bonafide score: {len(rejects)} of 60 have no score under whole: {len(rejects)} too_long_for_memory; "
    assert printed.err.count(line) == 2
