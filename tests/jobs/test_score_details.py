"""Embeddings and scores of frames beside the scores of utterances."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from jobs import score
from jobs.scoring import alone
from jobs.scoring.config import ScoreConfig
from jobs.scoring.details import DetailSettings, choose_details
from jobs.scoring.folder import publish
from jobs.scoring.inputs import ScoringPlan
from jobs.scoring.parts import to_float16
from jobs.scoring.stored_utterances import StoredUtterances
from pipeline.config import parse, to_toml
from pipeline.data.audio.load import load_audio
from pipeline.detector.checkpoint import load_detector, save_detector
from pipeline.detector.details import HEAD, SPECTRUM, Details
from pipeline.detector.network import Detector, DetectorConfig
from pipeline.detector.scoring import Scorer
from pipeline.detector.variants import VARIANTS, HeadConfig
from pipeline.detector.windows import WindowPolicy
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.embeddings import load_embeddings, load_rows
from pipeline.fields import Names
from pipeline.storage import Folder
from tests.detector.toys import make_detector

WIDTHS = {"head": 64, "0": 64, "2": 64, "spectrum": 319}
LAYERS = tuple(WIDTHS)
POLICIES = ("whole", "window:0.5:mean", "window:0.5:max", "window:0.5:first")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny detector whose scores differ from frame to frame."""
    network = make_detector(VARIANTS["tiny"])
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    save_detector(network, path, {})
    return path


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven files of different lengths."""
    root, rng = tmp_path_factory.mktemp("calls") / "calls", np.random.default_rng(0)
    root.mkdir()
    for number in range(7):
        samples = (
            0.1 * rng.standard_normal(6_000 + 3_217 * number) * np.linspace(0.2, 1, 6_000 + 3_217 * number)
        )
        soundfile.write(root / f"{number}.wav", samples, 16_000)
    return root


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "is_enough", lambda _: True)


def asked(calls: Path, detector: Path, out: Path, **changes: Any) -> ScoreConfig:
    return replace(
        ScoreConfig(
            audio=str(calls),
            checkpoint=str(detector),
            out=str(out),
            part_seconds=2.0,
            num_workers=1,
            embeddings="all",
            layer=Names(LAYERS),
            frames="float32",
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def scored(calls: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "scores"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone, "is_enough", lambda _: True)
        assert score.main(asked(calls, detector, out, window=Names(POLICIES))) == 0
    return out


@pytest.mark.parametrize("policy", POLICIES)
def test_embeddings_and_frames_equal_those_of_each_file_in_a_batch_of_its_own(
    policy: str, scored: Path, calls: Path, detector: Path
) -> None:
    out = scored / layout.policy_folder(policy)
    scorer = Scorer(load_detector(detector).detector, policy=WindowPolicy.parse(policy))
    frames = {row["path"]: row["scores"] for row in pq.read_table(out / "frames").to_pylist()}
    folder = Folder(str(out))
    for position, layer in enumerate(LAYERS):
        found = load_embeddings(folder, layer)
        assert sorted(found.rows["key"].to_pylist()) == [f"{number}.wav" for number in range(7)]
        for row, vector in zip(found.rows.to_pylist(), found.vectors, strict=True):
            waveform = load_audio((calls / row["path"]).read_bytes(), row["path"]).waveform
            single = scorer.compute([waveform], Details(LAYERS, frames=True))
            expected = single.embeddings[position][0]
            np.testing.assert_allclose(vector, expected, rtol=2e-3, atol=1e-4)  # float16
            np.testing.assert_allclose(frames[row["path"]], single.frames[0], atol=1e-5)
            if policy == "whole":
                assert np.mean(frames[row["path"]]) == pytest.approx(row["score"], abs=1e-5)
        assert found.vectors.std(axis=0).max() > 1e-2, "equal embeddings would prove nothing"
    with pytest.raises(
        InputError, match="has no embeddings of layer 1, only of head, 0, 2, spectrum; score into"
    ):
        load_embeddings(folder, "1")
    record = json.loads((out / "scores.json").read_text())
    assert record["embeddings"] == {
        "layers": list(LAYERS),
        "per_group": None,
        "widths": WIDTHS,
        "num_utterances": 7,
        "num_too_large": 0,
    }
    assert record["frames"] == "float32"


def test_a_scoring_that_was_interrupted_writes_the_same_details_once(
    calls: Path, detector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    config = asked(calls, detector, out, embeddings="4", frames="float16")
    score.main(config)
    written = {path: path.read_bytes() for path in out.glob("*/part-*.parquet")}
    parts = sorted((out / "scores").iterdir())
    assert len(parts) > 2
    # As if killed before the scores of part 1, whose embeddings were complete, and before the embeddings of part 2.
    for lost in (parts[1], parts[2], out / layout.embeddings_name(2), out / "scores.json"):
        lost.unlink(missing_ok=True)
    with pytest.raises(InputError, match="scoring did not finish"):
        load_embeddings(Folder(str(out)))
    assert score.main(config) == 0
    assert {path: path.read_bytes() for path in out.glob("*/part-*.parquet")} == written
    embeddings = load_embeddings(Folder(str(out)))
    assert len(embeddings.rows) == len(embeddings.vectors) == 4
    assert (
        str(pq.read_schema(next((out / "frames").iterdir())).field("scores").type)
        == "list<element: halffloat>"
    )
    with pytest.raises(InputError, match="holds scores with another embeddings; choose another --out"):
        score.main(replace(config, embeddings="5"))
    with pytest.raises(
        InputError, match="holds scores with another embeddings, frames; choose another --out"
    ):
        score.main(replace(config, embeddings="none", layer=Names(["head"]), frames="none"))


def test_scores_without_embeddings_say_how_to_get_them(calls: Path, detector: Path, tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "scores"))
    plain = {"embeddings": "none", "layer": Names(["head"]), "frames": "none", "part_seconds": 60.0}
    score.main(asked(calls, detector, tmp_path / "scores", **plain))
    assert {info.name.partition("/")[0] for info in out.find()}.isdisjoint({"embeddings", "frames"})
    with pytest.raises(
        InputError, match="these scores have no embeddings; score into another folder with --embed"
    ):
        load_embeddings(out)
    identity, rows = load_rows(out)
    assert identity["embeddings"] is None and len(rows) == 7
    assert (
        rows["label"].null_count == 7 and not rows["seconds"].null_count and not rows["level_dbfs"].null_count
    )


def test_a_sample_has_at_most_so_many_utterances_of_each_group_in_any_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    count = 3_000
    rows = pa.table(
        {
            "uid": [f"{number:016x}" for number in range(count)],
            "corpus": rng.choice(["a", "b"], count, p=[0.99, 0.01]).tolist(),
            "label": [["bonafide", "spoof", None][number] for number in rng.integers(0, 3, count)],
            "attack": [["A01", "A02", None][number] for number in rng.integers(0, 3, count)],
        }
    )
    settings = DetailSettings("uid", {HEAD: 4}, 20, None)
    is_chosen = settings.choose_sample(rows)
    groups = Counter(zip(*(rows[name].to_pylist() for name in ("corpus", "label", "attack")), strict=True))
    chosen = rows.filter(pa.array(is_chosen))
    counts = Counter(zip(*(chosen[name].to_pylist() for name in ("corpus", "label", "attack")), strict=True))
    assert counts == {group: min(20, size) for group, size in groups.items()}
    assert min(groups.values()) < 20 < max(groups.values())
    order = rng.permutation(count)
    assert (settings.choose_sample(rows.take(pa.array(order))) == is_chosen[order]).all()
    fewer = replace(settings, per_group=10).choose_sample(rows)
    assert (fewer <= is_chosen).all(), "a smaller sample is part of a larger one"
    assert replace(settings, per_group=None).choose_sample(rows).all()
    assert not replace(settings, widths={}).choose_sample(rows).any()


def test_what_a_detector_cannot_compute_is_an_error_that_names_what_it_can(detector: Path) -> None:
    network = load_detector(detector).detector
    config = ScoreConfig(checkpoint="c", out="o", audio="a", embeddings="all", layer=Names(["3"]))
    with pytest.raises(
        InputError, match="the detector has no layer '3'; give head, spectrum, or a number from 0 to 2"
    ):
        choose_details(config, network, "path")
    every = choose_details(replace(config, layer=Names(["all"])), network, "path")
    assert every.widths == dict.fromkeys(("head", "0", "1", "2"), 64) | {"spectrum": 319}
    attentive = Detector(DetectorConfig(VARIANTS["tiny"], HeadConfig("mhfa", 2, 8, 12)))
    with pytest.raises(
        InputError, match="the head mhfa gives no scores of single frames; leave out --frames, or"
    ):
        choose_details(
            replace(config, embeddings="none", layer=Names(["head"]), frames="float16"), attentive, "path"
        )
    assert choose_details(replace(config, layer=Names(["head", "1"])), attentive, "path").widths == {
        "head": 12,
        "1": 64,
    }


def test_flags_say_how_many_embeddings_of_which_layers(tmp_path: Path) -> None:
    flags = ["--audio", "a", "--checkpoint", "c", "--out", "o"]

    def read(*more: str) -> ScoreConfig:
        return parse(ScoreConfig, [*flags, *more], command="bonafide score")

    assert (read().embeddings, read().frames) == ("none", "none")
    assert read("--embeddings", "--frames") == replace(read(), embeddings="all", frames="float32")
    assert read("--embeddings", "50", "--layer", "head,4") == replace(
        read(), embeddings="50", layer=Names(["head", "4"])
    )
    file = tmp_path / "config.toml"
    file.write_text(to_toml(read("--embeddings", "50", "--layer", "4")))
    assert parse(ScoreConfig, ["--config", str(file)], command="bonafide score") == read(
        "--embeddings", "50", "--layer", "4"
    )
    for wrong in (["--embeddings", "0"], ["--embeddings", "few"], ["--embeddings", "--layer", "-1"]):
        with pytest.raises(InputError, match="expected"):
            read(*wrong)
    with pytest.raises(InputError, match="--layer chooses among embeddings; add --embeddings, or remove it"):
        read("--layer", "4")
    with pytest.raises(InputError, match="unknown precision of frames 'float31'; did you mean float32"):
        read("--frames", "float31")


def test_an_embedding_that_does_not_fit_into_float16_is_left_out_and_counted(
    calls: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = load_detector(detector).detector
    with torch.no_grad():
        network.encoder.layer_norm.weight.mul_(1e6)
    huge = tmp_path / "huge.safetensors"
    save_detector(network, huge, {})
    assert score.main(asked(calls, huge, tmp_path / "scores", frames="none")) == 0
    record = json.loads((tmp_path / "scores/scores.json").read_text())
    assert record["num_utterances"] == record["embeddings"]["num_too_large"] == 7
    assert not record["embeddings"]["num_utterances"]
    assert "7 embeddings are too large for float16 and are left out" in capsys.readouterr().err
    assert not len(load_embeddings(Folder(str(tmp_path / "scores"))).rows)
    assert np.isinf(to_float16(np.array([1e6], np.float32))).all()


def test_both_sides_give_the_named_layers_one_name() -> None:
    assert layout.HEAD_LAYER == HEAD
    assert layout.SPECTRUM_LAYER == SPECTRUM


def test_the_regions_of_the_utterances_of_a_plan_are_written_beside_their_frames(tmp_path: Path) -> None:
    regions = pa.table(
        {
            "uid": ["a", "b", "b"],
            "start_s": [0.0, 0.0, 1.0],
            "end_s": [1.0, 1.0, 2.0],
            "label": ["spoof"] * 3,
        },
        layout.REGION_COLUMNS,
    )
    source = StoredUtterances(Folder(str(tmp_path)))
    plan = ScoringPlan(source, pa.table({"uid": ["b", "c"]}), [], {}, "", "", "", lambda: regions)
    with_frames = DetailSettings("uid", {}, None, "float16")
    assert with_frames.choose_regions(plan) == regions.slice(1)
    assert replace(with_frames, frames=None).choose_regions(plan) is None
    assert with_frames.choose_regions(replace(plan, load_regions=None)) is None
    out = Folder(str(tmp_path / "scores"))
    config = ScoreConfig(checkpoint="c", out="o", audio="a")
    for written in (regions.slice(1), regions[:0], None):
        publish(out, config, {}, [], written)
    assert pq.read_table(tmp_path / "scores" / layout.REGIONS) == regions.slice(1), "nothing replaces it"
