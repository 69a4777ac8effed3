"""The benchmark of training steps, on shapes that take no time; what it measures is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.benchmarks import detector as benchmark
from pipeline.detector.config import TrainingConfig
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from tests.detector.toys import assert_same_weights, toy_detector

TINY = ("--device", "cpu", "--variants", "tiny", "--utterances", "2", "--seconds", "0.2", "--steps", "1")


def test_a_trial_step_changes_no_weight() -> None:
    detector = toy_detector()
    trial = prepare_dry_run(detector, TrainingConfig(precision="fp32"))
    heard: list[str] = []
    trial.step(make_noise(2, 0.2, torch.device("cpu")), heard.append)
    assert heard == ["forward", "backward", "optimiser"]
    assert all(weight.grad is not None for weight in detector.parameters())
    assert_same_weights(detector.state_dict(), toy_detector().state_dict())


def test_noise_is_padded_to_its_longest_utterance() -> None:
    batch = make_noise(3, 0.1, torch.device("cpu"))
    assert batch.num_samples.tolist() == [1600, 1520, 1440]
    assert batch.waveform.shape == (3, 1600)
    assert torch.all(batch.waveform[2, 1440:] == 0.0)
    assert batch.label.tolist() == [0, 1, 0]


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning"
)  # of the profiler and transformers
def test_it_measures_ours_and_transformers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (*TINY, "--precision", "fp32", "--compile", "off", "--peer", "off,on", "--json")
    assert benchmark.main([*words, "--profile", str(tmp_path / "profile.txt")]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(results) == 4
    for result in results:
        assert result["audio_s_per_s"] == pytest.approx(0.38 / result["step_s"], rel=1e-3)
        assert sum(result["shares"].values()) == pytest.approx(1)
        assert result["mfu"] is None
    assert "aten::" in (tmp_path / "profile.txt").read_text()


def test_a_line_says_what_was_measured() -> None:
    case = benchmark.Case("xlsr_1b", "bf16", 10, 10.0, compile=True, num_ranks=8, strategy="fsdp")
    shares = {"forward": 0.25, "backward": 0.7, "optimiser": 0.05}
    line = benchmark.line(case, benchmark.Speed(0.5, 0.4, 1600.0, 420.0, 0.425, shares, 61.2))
    assert line.split() == [
        *("xlsr_1b", "bf16", "compiled", "8", "×", "fsdp", "500.0", "ms", "1600.0", "audio", "s/s"),
        *("420.00", "TFLOP/s", "42.5%", "MFU", "61.2", "GiB", "forward", "25%", "backward", "70%"),
        *("optimiser", "5%"),
    ]
    assert benchmark.line(case, None).endswith("out of memory")


def test_two_processes_step_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--precision", "fp32", "--compile", "off", "--activation-checkpointing", "off")
    assert benchmark.main([*TINY, *words, "--ranks", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["audio_s_per_s"] == pytest.approx(2 * 0.38 / result["step_s"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--variants", "huge"), "unknown variant 'huge'"),
        (("--compile", "maybe"), "--compile knows off and on"),
        (("--precision", "fp8"), "--precision knows fp32"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main([*TINY, *words]) == 2
    assert reason in capsys.readouterr().err
