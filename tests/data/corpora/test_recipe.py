"""Recipes: which rule counts, which artifacts count as spoof, and which sources the published recipes separate."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.corpora.domains import DomainRule
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import EXCLUDED, RECIPES, Recipe, find_leakage, load_recipe, recipe_names
from pipeline.data.corpora.utterance import SPLITS, Problem, Utterance
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import probing
from pipeline.data.store.index import load_index
from pipeline.data.store.shards import build_shard
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot, commit_snapshot
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder

MANIFESTS = load_manifests()

ANY_SPLIT = (*SPLITS, None)

# The corpora that the reference implementation merges, in its order.
PAPER = (
    *("aishell3", "asvspoof2019_la", "asvspoof2021_la", "asvspoof2021_df", "asvspoof5", "cfad", "cnceleb2"),
    *("codecfake", "codecfake_vctk", "cvoicefake", "decro", "dfadd", "diffusion_deepfake", "diffssd", "dsd"),
    *(
        "fleurs",
        "fleurs_r",
        "habla",
        "libritts",
        "libritts_r",
        "libritts_vocoded",
        "ljspeech",
        "mlaad",
        "mls",
    ),
    *("spoofceleb", "voicemos", "voxceleb2", "voxceleb2_vocoded", "wavefake"),
)

VALID = """
name = "toy"
corpora = ["mls", "decro"]
train = ["decro/validation"]
validation = ["*/validation"]
excluded = ["decro/test"]
bonafide_artifacts = ["vocoder"]
[weights]
mls = 0.1
"decro/spoof" = 2
bonafide = 0.5
"""


def write(folder: Path, text: str) -> str:
    path = folder / "toy.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_on_training_corpora_or_on_a_train_split(name: str):
    recipe = load_recipe(name)
    for corpus, split in itertools.product(recipe.corpora, ANY_SPLIT):
        if MANIFESTS[corpus].role == "evaluation":
            assert (recipe.use(corpus, split) == "train") == (split == "train")


def test_the_example_in_the_readme_is_a_valid_recipe(tmp_path: Path):
    text = (RECIPES.parent / "README.md").read_text(encoding="utf-8").partition("## Recipes")[2]
    example = text.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "my_mix.toml").write_text(example)
    recipe = load_recipe(str(tmp_path / "my_mix.toml"))
    assert set(recipe.corpora) < set(MANIFESTS)
    assert recipe.use("asvspoof2019_la", "validation") == "train"
    assert recipe.use("libritts", "test") == "validation"


def test_antideepfake_is_the_training_set_of_the_paper():
    recipe = load_recipe("antideepfake")
    assert recipe.corpora == PAPER
    for corpus, split in itertools.product(PAPER, ANY_SPLIT):
        assert recipe.use(corpus, split) == ("validation" if split == "validation" else "train")
    assert not recipe.weights
    assert not recipe.bonafide_artifacts


def test_the_default_recipe_equals_that_of_the_paper():
    recipe = load_recipe("antideepfake")
    for corpus, split in itertools.product(PAPER, ANY_SPLIT):
        assert Recipe().use(corpus, split) == recipe.use(corpus, split)


def test_leakage_free_has_no_source_in_both_training_and_validation():
    recipe = load_recipe("leakage_free")
    leakage = find_leakage(recipe, itertools.product(recipe.corpora, ANY_SPLIT), MANIFESTS)
    assert not leakage.sources
    assert not leakage.unknown


def test_leakage_free_trains_and_validates_with_both_labels():
    recipe = load_recipe("leakage_free")
    for use in ("train", "validation"):
        corpora = [
            MANIFESTS[corpus]
            for corpus, split in itertools.product(recipe.corpora, ANY_SPLIT)
            if recipe.use(corpus, split) == use
        ]
        assert sum(manifest.expected_hours.bonafide or 0 for manifest in corpora) > 0
        assert sum(manifest.expected_hours.spoof or 0 for manifest in corpora) > 0


def test_the_leakage_of_the_paper_is_found():
    recipe = load_recipe("antideepfake")
    parts = [("asvspoof2019_la", "validation"), ("decro", "train"), ("fleurs", "train")]
    assert find_leakage(recipe, parts, MANIFESTS).sources == ("vctk",)
    assert find_leakage(recipe, [("my_recordings", "train")], MANIFESTS).unknown == ("my_recordings",)


def test_the_balanced_recipe_differs_from_that_of_the_paper_by_its_domains():
    balanced = load_recipe("antideepfake_balanced")
    paper = load_recipe("antideepfake")
    assert balanced.domains == DomainRule("attack", cap_hours=5.0, bonafide_ratio=1.0, max_repeats=4)
    assert replace(balanced, name=paper.name, domains=paper.domains) == paper


def test_a_table_of_domains_is_read_and_each_key_is_optional(tmp_path: Path):
    text = 'name = "toy"\n[domains]\n'
    assert load_recipe(write(tmp_path, text)).domains == DomainRule(max_repeats=4)
    text += 'by = "language"\ncap_hours = 2.5\nmax_repeats = 9\n'
    assert load_recipe(write(tmp_path, text)).domains == DomainRule("language", 2.5, None, 9)
    assert load_recipe(write(tmp_path, 'name = "toy"')).domains == DomainRule()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('by = "speaker"', "by: 'speaker' is not one of attack, corpus, language"),
        ("cap_hours = 0", "cap_hours: must be a number above 0, not 0"),
        ("cap_hours = -1", "cap_hours: must be a number ≥ 0, not -1"),
        ("cap_hours = inf", "cap_hours: must be a number above 0, not inf"),
        ("bonafide_ratio = nan", "bonafide_ratio: must be a number above 0, not nan"),
        ("bonafide_ratio = 0.0", "bonafide_ratio: must be a number above 0, not 0"),
        ('bonafide_ratio = "1:1"', "bonafide_ratio: must be a number ≥ 0, not '1:1'"),
        ("max_repeats = 0", "max_repeats: must be a whole number from 1 to 255, not 0"),
        ("max_repeats = 1.5", "max_repeats: must be a whole number from 1 to 255, not 1.5"),
        ("max_repeats = 256", "max_repeats: must be a whole number from 1 to 255, not 256"),
        ("cap = 5", "cap: unknown key; see manifests/README.md"),
    ],
)
def test_a_wrong_line_about_domains_names_the_file_and_the_key(tmp_path: Path, line: str, message: str):
    path = write(tmp_path, f'name = "toy"\n[domains]\n{line}\n')
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: domains.{message}')}$"):
        load_recipe(path)


def test_copy_synthesis_bonafide_relabels_vocoders_and_codecs():
    assert load_recipe("copy_synthesis_bonafide").bonafide_artifacts == ("vocoder", "codec")


def test_the_most_specific_rule_counts(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, VALID))
    assert recipe.use("decro", "validation") == "train"
    assert recipe.use("decro", "test") == "excluded"
    assert recipe.use("decro", None) == "train"
    assert recipe.use("mls", "validation") == "validation"
    corpus_rule_first = Recipe(validation=("*/test",), excluded=("mls",), train=("mls/train",))
    uses = [corpus_rule_first.use("mls", split) for split in ANY_SPLIT]
    assert uses == ["train", "excluded", "excluded", "excluded"]


def test_weights_are_limited_to_the_given_corpora(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, VALID))
    assert recipe.weights_of(["decro"]) == {"decro/spoof": 2.0, "bonafide": 0.5}


def test_rows_are_chosen_by_corpus_and_split(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, VALID))
    parts = list(itertools.product(("mls", "decro"), ANY_SPLIT)) * 3
    table = pa.table(
        {"corpus": [corpus for corpus, _ in parts], "split": pa.array([s for _, s in parts], pa.string())}
    )
    for use in ("train", "validation", "excluded"):
        expected = np.array([recipe.use(corpus, split) == use for corpus, split in parts])
        assert expected.any()
        np.testing.assert_array_equal(recipe.mask(table, use), expected)
        np.testing.assert_array_equal(recipe.mask(table.slice(0, 0), use), expected[:0])


def test_relabelled_rows_have_neither_artifact_nor_attack(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, VALID))
    table = pa.table(
        {
            "label": ["spoof", "spoof", "bonafide"],
            "artifact": ["vocoder", "tts", None],
            "attack": ["hifigan", "bark", None],
        }
    )
    assert recipe.relabel(table).to_pylist() == [
        {"label": "bonafide", "artifact": None, "attack": None},
        {"label": "spoof", "artifact": "tts", "attack": "bark"},
        {"label": "bonafide", "artifact": None, "attack": None},
    ]
    assert Recipe().relabel(table).equals(table)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "toy"', "", "name: is missing"),
        ('name = "toy"', 'name = "other"', "name: 'other', but the file is"),
        ('"mls", "decro"', '"mls", "mls"', "corpora: 'mls' is listed twice"),
        ('["*/validation"]', '["mls/dev"]', "validation: 'mls/dev': 'dev' is not one of train"),
        ('["*/validation"]', '["libritts"]', "validation: 'libritts': the recipe has no corpus"),
        ('["*/validation"]', '["*"]', r"validation: '\*' is not a rule"),
        ('["*/validation"]', '"mls"', "validation: must be a list of strings"),
        ('["*/validation"]', '["decro/validation"]', "validation: 'decro/validation' is already in train"),
        ('["vocoder"]', '["vocoders"]', "bonafide_artifacts: 'vocoders' is not one of tts"),
        ("mls = 0.1", "mlss = 0.1", "weights.mlss: is not a label"),
        ('"decro/spoof" = 2', '"decro/fake" = 2', "weights.decro/fake: is not a label"),
        ("mls = 0.1", 'mls = "few"', "weights.mls: must be a number"),
        ("[weights]", "[mixing]", "mixing: unknown key"),
    ],
)
def test_a_mistake_in_a_recipe_is_reported_with_file_and_key(
    old: str, new: str, message: str, tmp_path: Path
):
    assert old in VALID
    with pytest.raises(InputError, match=rf"toy\.toml: {message}"):
        load_recipe(write(tmp_path, VALID.replace(old, new)))


def test_a_recipe_that_does_not_exist_is_answered_with_the_nearest_name_or_all_names():
    with pytest.raises(InputError, match=r"unknown recipe 'antideepfakes'; did you mean antideepfake\?"):
        load_recipe("antideepfakes")
    with pytest.raises(InputError, match="known: antideepfake, antideepfake_balanced, copy"):
        load_recipe("zzz")
    with pytest.raises(InputError, match=r"nowhere/mix\.toml: no such recipe file"):
        load_recipe("nowhere/mix.toml")


def utterance(name: str, split: str | None, artifact: str | None = None) -> Utterance:
    label = "spoof" if artifact else "bonafide"
    uid = f"{int(name):016x}"
    return Utterance(uid, f"Toy-{name}", "toy", f"{name}.wav", label, artifact, None, None, None, split)


def test_excluded_rows_stay_in_the_catalog_with_their_split_as_reason(tmp_path: Path):
    (tmp_path / "any.wav").touch()
    (file,) = Folder(str(tmp_path)).find()
    entries: list[tuple[FileInfo, Utterance | Problem]] = [
        (file, utterance("1", "train")),
        (file, utterance("2", None)),
        (file, Problem("any.wav", "stray")),
    ]
    recipe = Recipe(name="toy", excluded=("toy/train", "toy/none"))
    rows = list(catalogs.rows(entries, "toy", recipe))
    assert [row["problem"] for row in rows] == [f"{EXCLUDED}train", f"{EXCLUDED}none", "stray"]
    assert [row["uid"] for row in rows] == [f"{1:016x}", f"{2:016x}", None]
    assert [row["problem"] for row in catalogs.rows(entries, "toy", Recipe())] == [None, None, "stray"]


def test_one_store_serves_every_recipe(tmp_path: Path):
    store, snapshot = tiny_store(tmp_path)
    paper = load_index(store, snapshot, Recipe(), "train")
    assert paper.label.tolist() == [1, 0, 0, 1]
    copies = Recipe(validation=("toy/test",), bonafide_artifacts=("vocoder",))
    assert sorted(load_index(store, snapshot, copies, "validation").uid.tolist()) == [4]
    chosen = load_index(store, snapshot, copies, "train")
    assert dict(zip(chosen.uid.tolist(), chosen.label.tolist(), strict=True)) == {1: 1, 2: 1, 3: 0, 5: 0}


def tiny_store(folder: Path) -> tuple[Folder, Snapshot]:
    """Five clips in one shard."""
    import soundfile

    utterances = [
        utterance("1", "train"),
        utterance("2", "train", "vocoder"),
        utterance("3", None, "tts"),
        utterance("4", "test"),
        utterance("5", "validation", "tts"),
    ]
    for each in utterances:
        soundfile.write(
            folder / each.path, np.random.default_rng(0).standard_normal(8000).clip(-1, 1) * 0.1, 16000
        )
    root, store = Folder(str(folder)), Folder(str(folder / "store"))
    files = {file.name: file for file in root.find()}
    rows = catalogs.rows([(files[each.path], each) for each in utterances], "toy", Recipe())
    members: list[Any] = list(probing.probe_rows(rows, root, MANIFESTS["mls"]))
    summary = build_shard("toy-1", members, root, store, licence="unknown", resampler="soxr_hq")
    corpus = CorpusSnapshot("toy", "train", "unknown", None, "", "", 5, {}, {}, {}, (summary,))
    return store, commit_snapshot(store, [corpus])
