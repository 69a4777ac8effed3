"""`bonafide calibrate`: from scores to a calibration, which is stored with the detector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.__main__ import run_command
from pipeline.detector.checkpoint import load_detector, save_detector
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.evaluation.calibration import METADATA_KEY, Calibration, parse_calibration, parse_calibrations
from pipeline.evaluation.layout import policy_folder, policy_marker
from pipeline.storage import Folder
from tests.evaluation.simulated import write_spliced, write_system


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A tiny detector, whose file states its digest."""
    torch.manual_seed(1)
    path = tmp_path / "détecteur.safetensors"
    save_detector(Detector(DetectorConfig(VARIANTS["tiny"])), path, {"step": "7"})
    return path


def calibrate(scores: Path, out: Path, *flags: str) -> int:
    return run_command("calibrate", ["--scores", str(scores), "--out", str(out), *flags])


def stored_in(detector: Path) -> dict[str, Calibration]:
    return parse_calibrations(load_detector(detector).metadata.get(METADATA_KEY), str(detector))


def test_the_calibration_and_its_threshold_are_written_and_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_system(tmp_path / "scores", skill=1.5)
    out = tmp_path / "calibrations" / "whole.json"
    assert calibrate(scores, out, "--false-alarm", "0.01") == 0
    printed = capsys.readouterr().out
    calibration = parse_calibration(out.read_bytes(), str(out))
    assert (calibration.num_bonafide, calibration.num_spoof) == (600, 600)
    assert calibration.prior == pytest.approx(0.655, abs=1e-3)
    assert calibration.threshold is not None and calibration.threshold.is_guaranteed
    assert "tiny, whole fp32, on 600 bona fide and 600 spoof utterances of alpha, beta:\n" in printed
    assert f"  llr = {calibration.scale:.4g} × score" in printed
    assert "accepts at most 1 % of new spoof utterances like these, with 95 % confidence\n" in printed
    assert printed.endswith(f"calibration: {out}\n")

    assert calibrate(scores, out, "--false-alarm", "0.001") == 0
    assert "0.1 % cannot be promised with 600 spoof utterances; 2,995 are needed" in capsys.readouterr().out
    assert calibrate(scores, out, "--threshold", "-0.5", "--prior", "0.5") == 0
    assert "bona fide from llr -0.500: rejects " in capsys.readouterr().out
    chosen = parse_calibration(out.read_bytes(), str(out))
    assert chosen.threshold is not None and (chosen.threshold.llr, chosen.prior) == (-0.5, 0.5)
    assert calibrate(scores, out) == 0
    assert "no threshold, so scores get no verdict" in capsys.readouterr().out


def test_a_threshold_of_frames_is_written_where_frames_and_regions_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.json"
    for name, regions_of in (("known", ["alpha"]), ("unknown", [])):
        folder = tmp_path / name
        write_spliced(folder, noise=12.0, regions_of=regions_of)
        assert calibrate(folder, out, "--smoothing", "0.1", "--non-speech", "bonafide") == 0
        chosen = parse_calibration(out.read_bytes(), str(out)).frame_threshold
        printed = capsys.readouterr().out
        if chosen is None:
            assert name == "unknown"
            assert "  no threshold of frames: no regions of bona fide and of spoofed time" in printed
        else:
            assert (chosen.smoothing_s, chosen.non_speech, chosen.num_utterances) == (0.1, "bonafide", 40)
            handling = "averaged over 0.1 s, non-speech counted as bona fide"
            assert f"  frames {handling}, are spoofed below the score {chosen.score:.3f}: rejects " in printed


def test_a_detector_keeps_one_calibration_for_each_policy_and_precision(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = load_detector(detector).digest
    whole = write_system(tmp_path / "whole", weights_digest=digest)
    window = write_system(tmp_path / "window", seed=1, weights_digest=digest, policy="window:4:mean")
    out, flags = tmp_path / "c.json", ("--detector", str(detector))
    assert calibrate(whole, out, *flags) == calibrate(window, out, *flags) == 0
    assert f"stored in the metadata of {detector}\n" in capsys.readouterr().out
    assert stored_in(detector).keys() == {"whole fp32", "window:4:mean fp32"}
    assert load_detector(detector).digest == digest and load_detector(detector).metadata["step"] == "7"
    before = stored_in(detector)

    assert calibrate(whole, out, *flags, "--false-alarm", "0.05") == 0
    after = stored_in(detector)
    assert after["whole fp32"].threshold is not None and before["whole fp32"].threshold is None
    assert after["window:4:mean fp32"] == before["window:4:mean fp32"]
    unchanged = detector.stat()
    assert calibrate(whole, out, *flags, "--false-alarm", "0.05") == 0
    assert detector.stat() == unchanged, "the file has this calibration already"


def test_a_calibration_is_not_stored_with_another_detector_nor_in_another_kind_of_file(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, out = write_system(tmp_path / "scores"), tmp_path / "c.json"
    digest = load_detector(detector).digest
    (tmp_path / "cut").write_bytes(detector.read_bytes()[:-1])
    (tmp_path / "pickle").write_bytes(b"PK\x03\x04" * 10)
    foreign = tmp_path / "foreign"
    header = b'{"__metadata__":{}}     '
    foreign.write_bytes(len(header).to_bytes(8, "little") + header)
    for file, message in (
        (detector, f"has the weights {digest[:12]}, and the scores are of 000000000000; name the detector"),
        (tmp_path / "cut", "damaged: "),
        (tmp_path / "pickle", "not a safetensors file (a header of "),
        (foreign, "does not state the digest of its weights"),
        (tmp_path / "none", "no such detector"),
    ):
        assert calibrate(scores, out, "--detector", str(file)) == 2
        assert f"bonafide calibrate: {file}: {message}" in capsys.readouterr().err
        assert not out.exists()


def test_scores_that_no_single_calibration_fits_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several, out = tmp_path / "several", tmp_path / "c.json"
    for policy in ("whole", "window:4:mean"):
        write_system(several / policy_folder(policy), policy=policy)
        marker = several / policy_marker(policy)
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
    perfect = write_system(tmp_path / "perfect", skill=50)
    for scores, message in (
        (several, f"give one of {several}/whole, {several}/window-4-mean"),
        (perfect, "all bona fide scores are above all spoof scores"),
        (tmp_path / "none", "no scores here"),
    ):
        flags = [] if scores != several else ["--false-alarm", "0.1"]
        assert calibrate(scores, out, *flags) == 2
        assert message in capsys.readouterr().err
    assert calibrate(perfect, out, "--false-alarm", "0.1", "--threshold", "0") == 2
    assert "both choose a threshold" in capsys.readouterr().err
    assert not out.exists()


def test_labels_are_those_of_a_recipe(tmp_path: Path) -> None:
    scores, out = write_system(tmp_path / "scores"), tmp_path / "c.json"
    recipe = tmp_path / "tts.toml"
    recipe.write_text('name = "tts"\nbonafide_artifacts = ["tts"]\n')
    assert calibrate(scores, out, "--recipe", str(recipe)) == 2, "every spoof counts as bona fide then"
    assert not out.exists()
    assert calibrate(scores, out) == 0
    assert json.loads(out.read_text())["corpora"] == ["alpha", "beta"]


def test_scores_calibration_and_detector_can_be_on_s3(detector: Path, bucket: str, tmp_path: Path) -> None:
    digest, remote = load_detector(detector).digest, Folder(bucket)
    write_system(tmp_path / "scores", weights_digest=digest)
    for info in list(Folder(str(tmp_path / "scores")).find()):
        remote.commit(f"scores/{info.name}", (tmp_path / "scores" / info.name).read_bytes())
    remote.commit("run/detector.safetensors", detector.read_bytes())
    flags = ["--scores", f"{bucket}/scores", "--out", f"{bucket}/run/c.json"]
    assert run_command("calibrate", [*flags, "--detector", f"{bucket}/run/detector.safetensors"]) == 0
    detector.write_bytes(remote.read("run/detector.safetensors"))
    calibration = parse_calibration(remote.read("run/c.json"), "c.json")
    assert stored_in(detector) == {"whole fp32": calibration}
    assert load_detector(detector).digest == digest
