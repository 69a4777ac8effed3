"""All manifests of the repository are valid, and mistakes in a manifest are errors."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pipeline.data.corpora.corpus import read_corpus
from pipeline.data.corpora.manifest import (
    MANIFESTS,
    Manifest,
    choose_manifests,
    load_manifest,
    load_manifests,
)
from pipeline.data.corpora.utterance import Utterance
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.corpora.layouts import AUGMENTATION, EVALUATION, LAYOUTS, TRAIN, put

KNOWN_LICENCES = {
    "aishell3": ("Apache-2.0", False),
    "cfad": ("CC-BY-4.0", False),
    "codecfake": ("CC-BY-NC-ND-4.0", True),
    "codecfake_vctk": ("CC-BY-4.0", False),
    "decro": ("CC-BY-4.0", False),
    "deepfake_eval_2024": ("CC-BY-SA-4.0", False),
    "diffssd": ("CC-BY-NC-ND-4.0", True),
    "diffusion_deepfake": ("CC-BY-4.0", False),
    "fleurs": ("CC-BY-4.0", False),
    "in_the_wild": ("CC-BY-SA-4.0", False),
    "libritts": ("CC-BY-4.0", False),
    "libritts_r": ("CC-BY-4.0", False),
    "ljspeech": ("public-domain", False),
    "mlaad": ("CC-BY-NC-4.0", True),
    "musan": ("CC-BY-4.0", False),
    "rirs_noises": ("Apache-2.0", False),
    "spoofceleb": ("CC-BY-4.0", False),
}

VALID = """\
name = "toy"
folder = "Toy"
role = "train"
id = "Toy-{utterance}"
homepage = "https://example.org"
licence = "unknown"
languages = ["en"]
sources = []
audio = "{split}/{utterance}.wav"
constants = { language = "en", artifact = "tts" }
[protocol]
files = "list.txt"
columns = ["utterance", "label"]
[translate]
label = { real = "bonafide", fake = "spoof" }
split = { train = "train" }
"""


def test_there_is_one_manifest_for_every_documented_corpus():
    manifests = load_manifests()
    documented = [
        *((one, "train") for one in TRAIN),
        *((one, "evaluation") for one in EVALUATION),
        *((one, "augmentation") for one in AUGMENTATION),
    ]
    assert len(TRAIN) == 30 and len(EVALUATION) == 8
    for layout, role in documented:
        manifest = manifests[layout.name]
        assert (manifest.folder, manifest.role) == (layout.folder, role)


def test_training_hours_add_up_to_the_published_rows():
    manifests = load_manifests()
    hours = [manifests[one.name].expected_hours for one in TRAIN]
    assert math.isclose(sum(one.bonafide or 0 for one in hours), 56371.27, abs_tol=0.005)
    assert math.isclose(sum(one.spoof or 0 for one in hours), 18282.06, abs_tol=0.005)
    assert sum(one.total is None for one in hours) == 1  # WildSVDD


def test_exactly_the_documented_licences_are_known():
    manifests = load_manifests()
    licences = {
        one.name: (manifests[one.name].licence, manifests[one.name].non_commercial)
        for one in LAYOUTS
        if manifests[one.name].licence != "unknown"
    }
    assert licences == KNOWN_LICENCES


def test_corpora_with_the_same_recordings_have_a_common_source():
    manifests = load_manifests()
    pairs = [
        ("asvspoof2019_la", "decro"),
        ("aishell3", "cfad"),
        ("fleurs", "fleurs_r"),
        ("ljspeech", "wavefake"),
        ("libritts", "libritts_vocoded"),
        ("mls", "asvspoof5"),
        ("voxceleb2", "voxceleb2_vocoded"),
        ("wavefake", "decro"),
        ("cfad", "decro"),
        ("fakeorreal", "fakeorreal_norm"),
    ]
    for one, other in pairs:
        assert set(manifests[one].sources) & set(manifests[other].sources), (one, other)


def test_corpus_names_are_snake_case_and_unique_regardless_of_case():
    names = list(load_manifests())
    assert len({name.lower() for name in names}) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_a_corpus_with_spoofed_hours_names_an_artifact():
    for manifest in load_manifests().values():
        if manifest.expected_hours.spoof:
            assert manifest.artifacts, manifest.name


def load_readme_examples(folder: Path) -> dict[str, Manifest]:
    text = (MANIFESTS / "README.md").read_text(encoding="utf-8").partition("## Recipes")[0]
    manifests = {}
    for example in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        name = re.search(r'^name = "(\w+)"', example, re.MULTILINE)
        assert name
        put(folder / f"{name[1]}.toml", example)
        manifests[name[1]] = load_manifest(folder / f"{name[1]}.toml")
    return manifests


def test_the_examples_in_the_readme_are_valid_manifests(tmp_path: Path):
    assert list(load_readme_examples(tmp_path)) == [
        "mls",
        "asvspoof5",
        "codecfake_vctk",
        "deepfake_eval_2024",
        "spliced_calls",
        "street_noise",
    ]


def test_the_paths_in_the_readme_become_the_utterances_it_states(tmp_path: Path):
    manifests = load_readme_examples(tmp_path / "manifests")
    put(tmp_path / "MLS/mls_italian/dev/audio/1595/10/1595_10_000.flac")
    put(tmp_path / "CodecFake/processed/a/encodec+p225_001.wav")
    (italian,) = read_corpus(manifests["mls"], Folder(str(tmp_path / "MLS")))
    (vocoded,) = read_corpus(manifests["codecfake_vctk"], Folder(str(tmp_path / "CodecFake")))
    assert isinstance(italian, Utterance) and isinstance(vocoded, Utterance)
    assert italian.id == "MLS-IT-1595_10_000"
    assert (italian.label, italian.language, italian.speaker) == ("bonafide", "it", "1595")
    assert italian.split == "validation"
    assert (vocoded.attack, vocoded.speaker) == ("encodec", "p225")


def test_a_valid_manifest_is_read(tmp_path: Path):
    put(tmp_path / "toy.toml", VALID)
    manifest = load_manifest(tmp_path / "toy.toml")
    assert manifest.key == ("utterance",)
    assert manifest.non_commercial is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "train"', 'role = "train"\nrolle = 1', "rolle: unknown key"),
        ('folder = "Toy"\n', "", "folder: is missing"),
        ('folder = "Toy"', "folder = 3", "folder: must be a non-empty string"),
        ('role = "train"', 'role = "training"', "role: 'training' is not one of train, evaluation"),
        ('name = "toy"', 'name = "toys"', "name: 'toys', but the file is toy.toml"),
        ('languages = ["en"]', 'languages = "en"', "languages: must be a list of strings"),
        ('licence = "unknown"', 'licence = "MIT"', "non_commercial: required for"),
        ('licence = "unknown"', 'licence = "unknown"\nnon_commercial = true', "non_commercial: required for"),
        ('licence = "unknown"', 'licence = "unknown"\nnon_commercial = 1', "non_commercial: must be true or"),
        ("Toy-{utterance}", "Toy-{stem}", "id: unknown field 'stem'"),
        ("Toy-{utterance}", "Toy-{utterance", "id: .* has a brace"),
        ("{split}/{utterance}", "{split}/{utterance", "audio: .* has a brace"),
        ("{split}/{utterance}", "{utterance}/{utterance}", "audio: .* captures a field twice"),
        ("{split}/{utterance}", "{language}/{utterance}", "audio: language is defined twice"),
        ("{split}/{utterance}", "{split}/{stem}", "protocol: has no field in common"),
        ('"{split}/{utterance}.wav"', "[]", "audio: is empty"),
        (
            '"{split}/{utterance}.wav"',
            '["{split}/{utterance}.wav", "{split}.wav"]',
            "audio: .* lacks utterance",
        ),
        ('"utterance", "label"', '"utterance", ""', "audio: no path, protocol or constant defines the label"),
        ('columns = ["utterance", "label"]', "", "protocol.columns: give exactly one"),
        (
            'columns = ["ut',
            'separator = "semicolon"\ncolumns = ["ut',
            "protocol.separator: 'semicolon' is not one",
        ),
        ('fake = "spoof"', 'fake = "fake"', "label: 'fake' is not one of spoof, bonafide"),
        ('fake = "spoof"', '"*" = "*"', r"label: '\*' is not one of spoof, bonafide"),
        ('train = "train" }', 'train = "dev" }', "split: 'dev' is not one of train, validation, test"),
        ('artifact = "tts"', 'artifact = "magic"', "artifact: 'magic' is not one of tts"),
        ("split = {", "spilt = {", "translate.spilt: unknown field"),
        ("[protocol]", 'parse = { stem = "{speaker}" }\n[protocol]', "parse.stem: no such field is defined"),
        ("[protocol]", 'parse = { split = "{label}" }\n[protocol]', "parse.split: label is defined twice"),
        (
            "[protocol]",
            "expected_hours = { spoof = -1 }\n[protocol]",
            "expected_hours.spoof: must be a number",
        ),
        ("[protocol]", "expected_hours = { fake = 1 }\n[protocol]", "expected_hours.fake: unknown key"),
        ("[protocol]", "chunks = { seconds = 4 }\n[protocol]", "chunks.choices: is missing"),
        ("[protocol]", "[protocol", "not valid TOML"),
    ],
)
def test_a_mistake_is_reported_with_file_and_key(old: str, new: str, message: str, tmp_path: Path):
    assert old in VALID
    put(tmp_path / "toy.toml", VALID.replace(old, new))
    with pytest.raises(InputError, match=rf"toy\.toml: {message}"):
        load_manifest(tmp_path / "toy.toml")


def test_a_manifest_must_be_in_the_folder_of_its_role(tmp_path: Path):
    put(tmp_path / "evaluation" / "toy.toml", VALID)
    with pytest.raises(InputError, match="role = 'train', but the file is in evaluation/"):
        load_manifests(tmp_path)


def test_the_labels_of_an_augmentation_corpus_are_kinds_of_recordings(tmp_path: Path):
    put(tmp_path / "toy.toml", VALID.replace('role = "train"', 'role = "augmentation"'))
    with pytest.raises(InputError, match="label: 'bonafide' is not one of noise, music, speech, rir"):
        load_manifest(tmp_path / "toy.toml")
    put(tmp_path / "toy.toml", VALID.replace('real = "bonafide", fake = "spoof"', 'real = "noise"'))
    with pytest.raises(InputError, match="label: 'noise' is not one of spoof, bonafide"):
        load_manifest(tmp_path / "toy.toml")


def test_two_manifests_cannot_have_the_same_name(tmp_path: Path):
    put(tmp_path / "evaluation" / "toy.toml", VALID.replace('role = "train"', 'role = "evaluation"'))
    put(tmp_path / "train" / "toy.toml", VALID)
    with pytest.raises(InputError, match="another manifest is already named 'toy'"):
        load_manifests(tmp_path)


def test_a_mistyped_corpus_is_answered_with_the_nearest_name():
    with pytest.raises(InputError, match=r"unknown corpus 'ljspech'; did you mean ljspeech\?"):
        choose_manifests(["ljspech"])
    assert list(choose_manifests(["mls", "ljspeech"])) == ["mls", "ljspeech"]
    assert choose_manifests([]) == load_manifests()
