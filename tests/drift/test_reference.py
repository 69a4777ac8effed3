from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.drift.reference import fit, load_reference
from pipeline.drift.space import NUM_COMPONENTS, fit_space
from pipeline.errors import InputError
from tests.drift.simulated import simulate


def write(path: Path, **arguments: Any) -> bytes:
    sample = simulate(0, **arguments)
    data = fit(sample, sample.rows, 200, "auto").to_parquet()
    path.write_bytes(data)
    return data


def test_a_reference_is_the_same_after_it_is_written(tmp_path: Path):
    data = write(tmp_path / "r.parquet", num=400)
    reference = load_reference(str(tmp_path / "r.parquet"))
    assert len(reference.sample) == 200
    assert reference.to_parquet() == data
    assert sum(count.number for count in reference.counts) == reference.num_known == 400
    assert {count.name for count in reference.counts} == {"calls · bona fide", "calls · spoof · tts"}


def test_a_reference_of_scores_alone_has_no_space(tmp_path: Path):
    write(tmp_path / "r.parquet", layer="")
    reference = load_reference(str(tmp_path / "r.parquet"))
    assert reference.space is None and reference.sample.vectors is None


@pytest.mark.parametrize("num", [50, 400])
def test_the_space_has_uncorrelated_components_of_variance_one(num: int):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(num, 100)) * np.linspace(1, 3, 100) + 5).astype(np.float32)
    space = fit_space(vectors, "here")
    assert space.num_components == min(NUM_COMPONENTS, num - 1)
    covariance = np.cov(space.project(vectors).T)
    assert covariance == pytest.approx(np.eye(space.num_components), abs=1e-3)
    assert 0.5 < space.share <= 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_reference_is_one_line(damage: str, tmp_path: Path):
    path = tmp_path / "r.parquet"
    data = write(path, num=400, width=64)
    flipped = data[:2000] + bytes([data[2000] ^ 0xFF]) + data[2001:]
    damaged = {"cut": data[:-100], "flipped": flipped, "other": b"PAR1 something else PAR1", "empty": b""}
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"not a reference by `bonafide drift --fit`, or damaged") as caught:
        load_reference(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_reference_names_the_command_that_writes_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"no such file; write it with `bonafide drift --fit SCORES --out "):
        load_reference(str(tmp_path / "r.parquet"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights_digest": "fedcba"},
            "the reference is of the weights 0123456789abcdef, and these are scores",
        ),
        (
            {"policy": "window:4:mean"},
            "of the window that is scored whole, and these are scores with window:4:mean",
        ),
        ({"precision": "bf16"}, "the arithmetic precision fp32"),
        ({"layer": "4"}, "embeddings of layer head, and these are of layer 4"),
        ({"layer": ""}, "these scores have none; score again with --embeddings --layer head"),
    ],
)
def test_scores_of_another_detector_window_precision_or_layer_are_refused(
    change: dict[str, Any], message: str
):
    sample = simulate(0)
    with pytest.raises(InputError, match=message):
        fit(sample, sample.rows, 200, "auto").check(simulate(1, **change))


def test_a_few_utterances_are_no_reference():
    sample = simulate(0, 39)
    with pytest.raises(InputError, match="39 utterances are too few for a reference"):
        fit(sample, sample.rows, 200, "auto")


def test_embeddings_that_are_equal_or_not_finite_are_an_error():
    with pytest.raises(InputError, match="all embeddings are equal"):
        fit_space(np.ones((50, 8), np.float32), "here")
    with pytest.raises(InputError, match="not finite"):
        fit_space(np.full((50, 8), np.nan, np.float32), "here")
