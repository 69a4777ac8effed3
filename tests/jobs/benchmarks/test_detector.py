"""The benchmark of training steps, on tiny shapes; its measurements themselves are not tested."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.benchmarks.detector import format_line, main
from jobs.benchmarks.training_step import Case, Speed
from pipeline.detector.config import TrainingConfig
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from tests.detector.toys import assert_same_weights, toy_detector

ROOT = Path(__file__).parents[3]
TINY = ("--device", "cpu", "--variants", "tiny", "--utterances", "2", "--seconds", "0.2", "--steps", "1")


def test_a_dry_run_step_changes_no_weight() -> None:
    detector = toy_detector()
    dry_run = prepare_dry_run(detector, TrainingConfig(precision="fp32"))
    phases: list[str] = []
    dry_run.step(make_noise(2, 0.2, torch.device("cpu")), phases.append)
    assert phases == ["forward", "backward", "optimiser"]
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
)  # raised by the profiler and transformers
def test_bonafide_and_transformers_are_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = (*TINY, "--precision", "fp32", "--compile", "off", "--peer", "off,on", "--json")
    assert main([*arguments, "--profile", str(tmp_path / "profile.txt")]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(results) == 4
    for result in results:
        assert result["audio_s_per_s"] == pytest.approx(0.38 / result["step_s"], rel=1e-3)
        assert sum(result["shares"].values()) == pytest.approx(1)
        assert result["mfu"] is None
    assert "aten::" in (tmp_path / "profile.txt").read_text()


def test_a_line_shows_the_case_and_its_measurements() -> None:
    case = Case("xlsr_1b", "bf16", 10, 10.0, compile=True, num_ranks=8, strategy="fsdp")
    shares = {"forward": 0.25, "backward": 0.7, "optimiser": 0.05}
    line = format_line(case, Speed(0.5, 0.4, 1600.0, 420.0, 0.425, shares, 61.2))
    assert line.split() == [
        *("xlsr_1b", "bf16", "compiled", "8", "×", "fsdp", "500.0", "ms", "1600.0", "audio", "s/s"),
        *("420.00", "TFLOP/s", "42.5%", "MFU", "61.2", "GiB", "forward", "25%", "backward", "70%"),
        *("optimiser", "5%"),
    ]
    adapted = format_line(replace(case, head="mhfa", lora_rank=16), None)
    assert adapted.split()[:5] == ["xlsr_1b", "bf16", "compiled", "mhfa", "rank"]
    assert adapted.endswith("out of memory")


def test_two_processes_are_measured_together(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--precision", "fp32", "--compile", "off", "--activation-checkpointing", "off")
    assert main([*TINY, *arguments, "--ranks", "2", "--json", "--head", "mhfa", "--lora-rank", "4"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["audio_s_per_s"] == pytest.approx(2 * 0.38 / result["step_s"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--variants", "huge"), "unknown variant 'huge'"),
        (("--compile", "maybe"), "--compile does not accept maybe; known: off, on"),
        (("--precision", "fp8"), "--precision does not accept fp8; known: fp32"),
    ],
)
def test_an_unknown_value_is_a_one_line_error(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_it_runs_with_torch_and_numpy_alone() -> None:
    """Block every other dependency of the project in a new process; `None` in sys.modules makes an import fail."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[><=]", line)[0].replace("-", "_") for line in project["dependencies"]}
    blocked = sorted(names - {"torch", "numpy"})
    assert {"ray", "pyarrow", "mlflow", "safetensors"} <= set(blocked)
    arguments = [*TINY, "--precision", "fp32", "--compile", "off", "--activation-checkpointing", "off"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
        f"from jobs.benchmarks.detector import main; sys.exit(main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "audio s/s" in done.stdout
