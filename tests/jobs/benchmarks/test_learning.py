"""The comparison of training methods: settings of each method, and the table of their errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from jobs.benchmarks import learning
from jobs.benchmarks.learning import Run, compare, fill, load_methods, mean_interval
from jobs.training.config import TrainConfig
from pipeline.config import parse
from pipeline.errors import InputError

METHODS = """
[all]
variant = "tiny"
[all.batch]
max_seconds = 12.0
num_buckets = 2
[plain]
[short]
batch = { max_seconds = 6.0 }
[tuned]
init = "{out}/trainings/plain-{seed}/detector.safetensors"
"""


@pytest.fixture
def methods(tmp_path: Path) -> str:
    file = tmp_path / "methods.toml"
    file.write_text(METHODS)
    return str(file)


def test_a_method_changes_the_common_settings_that_it_names(methods: str) -> None:
    loaded = load_methods(methods)
    assert list(loaded) == ["plain", "short", "tuned"]
    assert loaded["plain"] == {"variant": "tiny", "batch": {"max_seconds": 12.0, "num_buckets": 2}}
    assert loaded["short"] == {"variant": "tiny", "batch": {"max_seconds": 6.0, "num_buckets": 2}}


def test_chosen_methods_are_compared_with_the_first(methods: str) -> None:
    assert list(load_methods(methods, ["tuned"])) == ["plain", "tuned"]


@pytest.mark.parametrize(
    ("text", "only", "message"),
    [
        (METHODS, ["shor"], "no method 'shor'; did you mean short"),
        ("[all]\n[plain]\n", [], "two or more tables"),
        ("plain = 1\nother = 2\n", [], "two or more tables"),
    ],
)
def test_a_file_without_the_methods_is_refused(
    tmp_path: Path, text: str, only: list[str], message: str
) -> None:
    file = tmp_path / "methods.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_methods(str(file), only)


def test_a_method_can_start_from_the_detector_of_another(methods: str) -> None:
    settings = fill(load_methods(methods)["tuned"], {"out": "/results", "seed": "2"})
    assert settings["init"] == "/results/trainings/plain-2/detector.safetensors"


def test_the_default_methods_are_settings_of_the_training(tmp_path: Path) -> None:
    for name, settings in load_methods(str(learning.METHODS)).items():
        file = learning.write_settings(tmp_path, Run(name, 1), settings)
        config = parse(
            TrainConfig, ["--config", str(file), "--store", "s", "--out", "o"], command="bonafide train"
        )
        assert config.training.optimiser.num_steps == (500 if config.init else 1500)


def test_the_interval_of_a_mean_is_that_of_student() -> None:
    # Mean 2, standard deviation 1, and 4.303 is the 97.5 % quantile of t with two degrees of freedom.
    mean, half = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)


def test_methods_are_compared_seed_by_seed() -> None:
    eers = {
        Run("plain", 1): {"a": 0.1, "b": 0.3},
        Run("plain", 2): {"a": 0.2, "b": 0.6},
        Run("halved", 1): {"a": 0.05, "b": 0.15},
        Run("halved", 2): {"a": 0.1, "b": 0.3},
    }
    plain, halved = compare(eers, ["plain", "halved"], ["a", "b"])
    assert (plain.name, plain.against) == ("plain", "a 15.00%, b 45.00%")
    assert plain.value.startswith("30.00% ± ")
    # Both seeds halve the error, so their ratios have no spread although the errors do.
    assert halved.against == "-50% (-50% … -50%); a 7.50%, b 22.50%"
