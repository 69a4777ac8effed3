"""The presets are valid configs with the settings of the paper (arXiv 2506.21090)."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import train
from jobs.training.config import TrainConfig
from jobs.training.resolve import resolve_batch
from pipeline.config import parse
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.loading.augment.composition import read_steps
from pipeline.detector.config import learning_rate
from pipeline.detector.variants import VARIANTS

PRESETS = sorted((Path(train.__file__).parent / "presets").glob("*.toml"))
POST_TRAINING = [path for path in PRESETS if path.stem in VARIANTS]


def read(preset: Path, *flags: str) -> TrainConfig:
    required = ["--config", str(preset), "--store", "store", "--out", "out"]
    return parse(TrainConfig, [*required, *flags], command="bonafide train")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_a_valid_config(preset: Path):
    config = read(preset)
    assert config.variant in VARIANTS
    if config.recipe:
        load_recipe(config.recipe)


def test_every_published_variant_has_a_preset():
    published = {variant for variant in VARIANTS if not variant.startswith("tiny")}
    assert {path.stem for path in POST_TRAINING} == published


@pytest.mark.parametrize("preset", POST_TRAINING, ids=lambda path: path.stem)
def test_post_training_settings_are_those_of_the_paper(preset: Path):
    config = read(preset)
    assert config.variant == preset.stem
    optimiser = config.training.optimiser
    assert optimiser.learning_rate == (5e-6 if preset.stem == "hubert_xl" else 1e-7)
    assert (optimiser.weight_decay, optimiser.epsilon, optimiser.clip_norm) == (0.01, 1e-6, 100.0)
    assert (optimiser.num_warmup_steps, optimiser.num_steps, optimiser.final_fraction) == (
        80_000,
        800_000,
        0.01,
    )
    assert config.batch.max_seconds == (50.0 if preset.stem == "xlsr_2b" else 100.0)
    assert (config.batch.num_buckets, config.batch.crop_min_s, config.batch.crop_max_s) == (20, 10.0, 13.0)
    assert (config.training.validate_every, config.training.seed) == (100_000, 1234)
    assert not config.augment


@pytest.mark.parametrize("seconds", [4, 10, 13, 30, 50])
def test_chunk_s_sets_the_crop_length_of_fine_tuning(seconds: float):
    preset = next(path for path in PRESETS if path.stem == "deepfake_eval_2024")
    config = read(preset, "--chunk-s", str(seconds))
    batch = resolve_batch(config, None, Recipe(), ())
    assert (batch.crop_min_s, batch.crop_max_s) == (seconds, seconds)
    assert config.training.optimiser.learning_rate == 1e-6
    assert config.training.validate_every == config.training.optimiser.num_steps


def test_the_learning_rate_of_the_anchored_fine_tuning_is_the_published_ramp():
    preset = next(path for path in PRESETS if path.stem == "deepfake_eval_2024_grpo")
    config = read(preset)
    training = config.training
    assert (training.loss.name, training.loss.beta, training.loss.groups) == (
        "expected_accuracy",
        0.04,
        "batch",
    )
    assert (training.optimiser.num_steps, training.validate_every) == (50_000, 20_000)
    for step in (1, 20_000, 50_000):  # 80,000 steps of warm-up to 1e-6
        assert learning_rate(step, training.optimiser) == pytest.approx(step / 80_000 * 1e-6)
    assert config.batch.max_seconds == 100.0
    assert config.augment == read_steps(["rawboost5"])
    recipe = load_recipe(config.recipe)
    parts = [(corpus, split) for corpus in recipe.corpora for split in ("train", "validation", "test")]
    used = {part: use for part in parts if (use := recipe.use(*part)) != "excluded"}
    assert used == {("deepfake_eval_2024", "train"): "train", ("asvspoof2019_la", "validation"): "validation"}
