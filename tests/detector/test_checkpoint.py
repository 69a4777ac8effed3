"""Checkpoints: every format loads completely or not at all, and none executes code."""

import argparse
import io
import json
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForAudioClassification,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)

from pipeline.detector.checkpoint import load_detector, load_weights, save_detector, weights_digest
from pipeline.detector.formats import config_to_json
from pipeline.detector.header import copy_with_metadata, read_header
from pipeline.detector.huggingface import export_transformers
from pipeline.detector.network import PREFIX, VARIANTS, Detector, DetectorConfig, EncoderConfig, normalise
from pipeline.errors import InputError
from tests.faults import ordinary_permissions

logging.getLogger("transformers").setLevel(logging.ERROR)

FAMILIES = ("tiny", "tiny_group")
PRETRAINING = {PREFIX + "mask_emb": torch.ones(64), PREFIX + "quantizer.vars": torch.ones(1, 4, 2)}


def make_detector(config: EncoderConfig = VARIANTS["tiny"]) -> Detector:
    torch.manual_seed(1)
    detector = Detector(DetectorConfig(config))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector.eval()


def make_waveforms() -> Tensor:
    return normalise(torch.randn(2, 6_789, generator=torch.Generator().manual_seed(3)))


def transformers_settings(config: EncoderConfig) -> dict[str, object]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_width,
        "conv_dim": [config.conv_width] * 7,
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        "feat_extract_norm": config.conv_norm,
        "conv_bias": config.conv_bias,
        "do_stable_layer_norm": config.pre_norm,
        "codevector_dim": 8,
        "proj_codevector_dim": 8,
    }


def shake(model: torch.nn.Module) -> Any:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


ORACLES = [
    (Wav2Vec2Config, Wav2Vec2Model, VARIANTS["tiny"]),
    (Wav2Vec2Config, Wav2Vec2Model, VARIANTS["tiny_group"]),
    (HubertConfig, HubertModel, replace(VARIANTS["tiny"], conv_bias=False)),
    (HubertConfig, HubertModel, VARIANTS["tiny_group"]),
    (Wav2Vec2Config, Wav2Vec2Model, replace(VARIANTS["xlsr_300m"], num_layers=1)),
    (Wav2Vec2Config, Wav2Vec2Model, replace(VARIANTS["w2v_small"], num_layers=1)),
]


@pytest.mark.parametrize(("settings_class", "model_class", "config"), ORACLES)
def test_logits_match_those_of_transformers(tmp_path, settings_class, model_class, config):
    oracle = shake(model_class(settings_class(**transformers_settings(config))))
    oracle.save_pretrained(tmp_path)
    detector = load_detector(tmp_path, accept_front_end=True).detector
    waveforms = make_waveforms()
    with torch.inference_mode():
        frames = oracle(waveforms).last_hidden_state
        [ours] = detector.front_end(waveforms, None).hidden
        logits = detector(waveforms).logits
        expected = detector.head(frames.mean(dim=1))
    assert frames.std() > 0.1
    torch.testing.assert_close(ours, frames, atol=2e-4, rtol=0)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_detector_loads_with_its_metadata(tmp_path, family):
    detector = make_detector(VARIANTS[family])
    detector.pretraining_tensors = dict(PRETRAINING)
    digest = save_detector(detector, tmp_path / "x.anything", {"step": "12", "variant": "mine"})
    loaded = load_detector(tmp_path / "x.anything")
    assert loaded.digest == digest == weights_digest(detector.state_dict())
    assert (loaded.variant, loaded.metadata["step"]) == ("mine", "12")
    assert loaded.detector.config == detector.config
    assert loaded.detector.pretraining_tensors.keys() == PRETRAINING.keys()
    assert "2 pre-training tensors kept" in loaded.coverage
    assert torch.equal(loaded.detector(make_waveforms()).logits, detector(make_waveforms()).logits)
    assert [path.name for path in tmp_path.iterdir()] == ["x.anything"]


def test_saved_files_have_the_released_layout(tmp_path):
    save_detector(make_detector(), tmp_path / "x.safetensors", {})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {"proj_fc.weight", "proj_fc.bias"} <= names
    for name in (
        "feature_extractor.conv_layers.6.0.weight",
        "feature_extractor.conv_layers.6.2.1.bias",
        "post_extract_proj.weight",
        "layer_norm.weight",
        "encoder.pos_conv.0.weight_g",
        "encoder.layers.1.self_attn.q_proj.weight",
        "encoder.layers.1.self_attn_layer_norm.weight",
        "encoder.layers.1.fc1.weight",
        "encoder.layers.1.final_layer_norm.weight",
    ):
        assert PREFIX + name in names
    assert {name.split(".")[0] for name in names} == {"m_ssl", "proj_fc"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "legacy"])
def test_the_variant_of_a_released_detector_is_recognised(tmp_path, family, kind):
    detector = make_detector(VARIANTS[family])
    path = tmp_path / "released"
    tensors = {**detector.state_dict(), **PRETRAINING}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "ckpt")
    loaded = load_detector(path)
    assert loaded.variant == family
    assert loaded.detector.pretraining_tensors.keys() == PRETRAINING.keys()
    assert loaded.digest == weights_digest(detector.state_dict())


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_fairseq_file_with_foreign_objects_fills_a_front_end(tmp_path, is_zip):
    detector = make_detector()
    weights = {
        name.removeprefix(PREFIX): t for name, t in detector.state_dict().items() if name.startswith(PREFIX)
    }
    content = {
        "args": argparse.Namespace(arch="wav2vec2", path=Path("/data")),
        "model": {**weights, "mask_emb": torch.ones(64), "final_proj.weight": torch.ones(3, 3)},
        "extra_state": {"best": frozenset({1.0})},
    }
    path = tmp_path / "xlsr.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=r"2 missing: proj_fc.bias, proj_fc.weight; it has no head"):
        load_detector(path)
    torch.manual_seed(7)
    loaded = load_detector(path, accept_front_end=True)
    torch.manual_seed(7)
    head = Detector(DetectorConfig(VARIANTS["tiny"])).head.state_dict()
    for name, tensor in loaded.detector.head.state_dict().items():
        assert torch.equal(tensor, head[name])
    assert (
        "fairseq format, the head keeps its initial weights, 2 pre-training tensors kept" in loaded.coverage
    )
    for name, tensor in weights.items():
        assert torch.equal(loaded.detector.state_dict()[PREFIX + name], tensor)


def test_weights_load_into_an_existing_detector(tmp_path):
    detector = make_detector()
    save_detector(detector, tmp_path / "x", {})
    torch.manual_seed(2)
    other = Detector(DetectorConfig(replace(VARIANTS["tiny"], dropout=0.1)))
    filled = load_weights(other, tmp_path / "x")
    assert "71 of 71 tensors" in filled.coverage
    assert filled.digest == weights_digest(other.state_dict()) == weights_digest(detector.state_dict())
    with pytest.raises(
        InputError, match="is of variant tiny: conv_norm is layer instead of group, conv_bias"
    ):
        load_weights(Detector(DetectorConfig(VARIANTS["tiny_group"])), tmp_path / "x")


@pytest.mark.parametrize("spelling", ["weight_{}", "parametrizations.weight.original{}"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_both_weight_norm_namings_load_from_transformers(tmp_path, spelling, file):
    oracle = shake(Wav2Vec2Model(Wav2Vec2Config(**transformers_settings(VARIANTS["tiny"]))))
    oracle.config.save_pretrained(tmp_path)
    weights = oracle.state_dict()
    for index, letter in enumerate("gv"):
        tensor = weights.pop(f"encoder.pos_conv_embed.conv.parametrizations.weight.original{index}")
        spelled = spelling.format(letter if "original" not in spelling else index)
        weights[f"encoder.pos_conv_embed.conv.{spelled}"] = tensor
    save = save_file if file.endswith("safetensors") else torch.save
    save(weights, tmp_path / file)
    loaded = load_detector(tmp_path, accept_front_end=True)
    waveforms = make_waveforms()
    with torch.inference_mode():
        expected = oracle(waveforms).last_hidden_state.mean(dim=1)
        torch.testing.assert_close(loaded.detector(waveforms).embedding, expected, atol=2e-4, rtol=0)


def test_pre_training_tensors_of_transformers_are_kept_under_their_fairseq_names(tmp_path):
    Wav2Vec2ForPreTraining(Wav2Vec2Config(**transformers_settings(VARIANTS["tiny"]))).save_pretrained(
        tmp_path
    )
    pretraining_tensors = load_detector(tmp_path, accept_front_end=True).detector.pretraining_tensors
    names = ["mask_emb", "quantizer.vars", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias"]
    names += ["project_q.weight", "project_q.bias", "final_proj.weight", "final_proj.bias"]
    assert pretraining_tensors.keys() == {PREFIX + name for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_detector_gives_the_same_logits_in_transformers_and_loads_again(tmp_path, family):
    detector = make_detector(VARIANTS[family])
    export_transformers(detector, tmp_path / "export")
    theirs, report = AutoModelForAudioClassification.from_pretrained(
        tmp_path / "export", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.id2label == {0: "spoof", 1: "bonafide"}
    waveforms = make_waveforms()
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs.eval()(waveforms).logits, detector(waveforms).logits, atol=1e-5, rtol=0
        )
    theirs.save_pretrained(tmp_path / "again")
    for folder in ("export", "again"):
        loaded = load_detector(tmp_path / folder)
        assert (loaded.variant, loaded.digest) == (family, weights_digest(detector.state_dict()))


def test_a_transformers_classifier_becomes_one_head_in_our_label_order(tmp_path):
    settings = Wav2Vec2Config(**transformers_settings(VARIANTS["tiny"]), classifier_proj_size=16)
    settings.id2label = {0: "bonafide", 1: "spoof"}
    theirs = shake(Wav2Vec2ForSequenceClassification(settings))
    theirs.save_pretrained(tmp_path)
    ours = load_detector(tmp_path).detector
    waveforms = make_waveforms()
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(waveforms).logits, theirs(waveforms).logits.flip(1), atol=2e-4, rtol=0
        )
    content = json.loads((tmp_path / "config.json").read_text())
    content["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"labels \['LABEL_0', 'LABEL_1'\]"):
        load_detector(tmp_path)


def test_tensors_that_do_not_match_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = make_detector().state_dict()
    missing = PREFIX + "encoder.layers.1.fc2.bias"
    save_file({name: t for name, t in tensors.items() if name != missing}, path)
    with pytest.raises(InputError, match=f"1 missing: {missing}$"):
        load_detector(path)
    save_file({**tensors, PREFIX + "surprise": torch.ones(1)}, path)
    with pytest.raises(InputError, match=f"1 unexpected: {PREFIX}surprise$"):
        load_detector(path)
    name = PREFIX + "encoder.layers.0.fc1.weight"
    save_file({**tensors, name: torch.ones(3, 2)}, path)
    with pytest.raises(InputError, match=rf"1 of wrong shape: {name} \[3, 2\] instead of \[128, 64\]$"):
        load_detector(path)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"2 missing: .*; 21 unexpected: .* and 16 more$"):
        load_detector(path, "tiny_group")


def test_a_failed_load_does_not_change_the_detector(tmp_path):
    detector = make_detector()
    digest = weights_digest(detector.state_dict())
    tensors = {name: torch.zeros_like(tensor) for name, tensor in detector.state_dict().items()}
    del tensors["proj_fc.bias"]
    save_file(tensors, tmp_path / "x")
    with pytest.raises(InputError, match=r"proj_fc\.bias"):
        load_weights(detector, tmp_path / "x")
    assert weights_digest(detector.state_dict()) == digest


def test_an_unknown_shape_is_an_error_that_lists_its_properties(tmp_path):
    torch.save(Detector(DetectorConfig(replace(VARIANTS["tiny"], num_layers=3))).state_dict(), tmp_path / "x")
    with pytest.raises(InputError, match=r"no known variant.*'num_layers': 3, 'width': 64"):
        load_detector(tmp_path / "x")
    with pytest.raises(InputError, match=r"16 unexpected: m_ssl\.model\.encoder\.layers\.2"):
        load_detector(tmp_path / "x", "tiny")
    with pytest.raises(InputError, match="unknown variant 'huge'; known: w2v_small"):
        load_detector(tmp_path / "x", "huge")


def test_weights_changed_after_saving_are_rejected(tmp_path):
    save_detector(make_detector(), tmp_path / "x", {})
    content = bytearray((tmp_path / "x").read_bytes())
    content[-1] ^= 1
    (tmp_path / "x").write_bytes(content)
    for load in (load_detector, lambda path: load_weights(make_detector(), path)):
        with pytest.raises(InputError, match="digest differs"):
            load(tmp_path / "x")


def test_the_digest_depends_on_names_and_values_but_not_on_order():
    one = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    assert weights_digest(one) == weights_digest({"b": one["b"], "a": one["a"]})
    assert weights_digest(one) != weights_digest({"a": one["b"], "b": one["a"]})
    assert weights_digest(one) != weights_digest({"a": one["a"], "c": one["b"]})


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_hostile_pickle_is_not_executed(tmp_path, is_zip):
    trap = tmp_path / "trap"
    tensors = make_detector().state_dict()
    torch.save(
        {"model": tensors, "args": Hostile(trap)}, tmp_path / "x", _use_new_zipfile_serialization=is_zip
    )
    assert "71 of 71" in load_detector(tmp_path / "x").coverage
    assert not trap.exists()
    (tmp_path / "bare").write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(InputError, match=r"damaged, or not a torch\.save file"):
        load_detector(tmp_path / "bare")
    assert not trap.exists()
    torch.load(tmp_path / "x", weights_only=False)
    assert trap.exists(), "the trap was never set"


def test_files_that_are_not_checkpoints_are_rejected(tmp_path):
    detector = make_detector()
    save_detector(detector, tmp_path / "whole.safetensors", {})
    whole = (tmp_path / "whole.safetensors").read_bytes()
    torch.save(detector.state_dict(), tmp_path / "whole.pt")
    torch.save(detector.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("whole.pt", "old.pt"):
        (tmp_path / f"cut {name}").write_bytes((tmp_path / name).read_bytes()[:-20_000])
    (tmp_path / "cut").write_bytes(whole[:-1])
    (tmp_path / "cut header").write_bytes(whole[:100])
    (tmp_path / "text").write_text("weights, honestly")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "page.pt").write_text("\n<!DOCTYPE html>\n<html><head><title>Sign in</title>")
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 380\n")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("model/weights.pt", b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "detector.safetensors").touch()
    os.mkfifo(tmp_path / "pipe")
    torch.save({"a": torch.ones(2)}, tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    torch.save(detector, tmp_path / "module")
    torch.save({"model": {"epoch": 3}}, tmp_path / "none")
    reasons = {
        "nowhere": "no such checkpoint",
        "text/more": "Not a directory",
        "x" * 300: "File name too long",
        "text": "not a safetensors file, a torch file or a transformers folder",
        "cut": "damaged safetensors file: .*; it may be cut short: copy or download it again",
        "cut header": "damaged safetensors file",
        "cut whole.pt": "damaged, or not a torch.save file: .*; it may be cut short: copy or download it again",
        "cut old.pt": "damaged, or not a torch.save file",
        "empty.pt": "an empty file",
        "page.pt": "a web page, not a checkpoint",
        "pointer": "a pointer of Git LFS, not the file itself; run `git lfs pull`",
        "archive.zip": "a zip archive, not a torch.save file",
        "folder": "a folder without model.safetensors or pytorch_model.bin; give the file",
        "run": "a folder without .*; name one of its files: detector.safetensors",
        "pipe": "not a regular file",
        "other": r"no wav2vec 2.0 or HuBERT weights in a known layout \(some of its tensors: a\)",
        "list": "contains one list, not named tensors",
        "module": r"contains one object, not named tensors; save the state_dict\(\) of the model",
        "none": "contains no tensors",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=reason):
            load_detector(tmp_path / name)


def test_a_file_without_permission_is_rejected(tmp_path):
    torch.save(make_detector().state_dict(), tmp_path / "x")
    (tmp_path / "x").chmod(0)
    with ordinary_permissions(), pytest.raises(InputError, match="x: Permission denied"):
        load_detector(tmp_path / "x")


@pytest.mark.filterwarnings("ignore:.*TorchScript:UserWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_rejected(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"Cannot use .*weights_only.* with TorchScript"):
        load_detector(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_as_float32(tmp_path, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in make_detector().state_dict().items()}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        weights = load_detector(tmp_path / name).detector.state_dict()
        assert all(torch.equal(weights[key], tensor.float()) for key, tensor in tensors.items())
    assert load_file(tmp_path / "x.safetensors")["proj_fc.bias"].dtype == dtype


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_values_that_are_not_finite_and_types_that_hold_no_weights_are_named(tmp_path):
    tensors = make_detector().state_dict()
    bias, head = PREFIX + "encoder.layers.1.fc2.bias", "proj_fc.weight"
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken[bias][3] = float("nan")
    broken[head][0, 0] = float("-inf")
    save_file(broken, tmp_path / "x")
    with pytest.raises(InputError, match=f"NaN or infinite values in {bias}, {head}; its training"):
        load_detector(tmp_path / "x")
    large = tensors | {head: torch.full_like(tensors[head], 3e38)}  # its sum overflows, its values do not
    save_file(large, tmp_path / "x")
    assert torch.equal(load_detector(tmp_path / "x").detector.state_dict()[head], large[head])
    torch.save(tensors | {head: tensors[head].to_sparse(), bias: tensors[bias].int()}, tmp_path / "x")
    with pytest.raises(
        InputError, match=rf"2 of wrong type: {bias} int32 .*, {head} sparse_coo float32 inst"
    ):
        load_detector(tmp_path / "x")


WEIGHT_NORM = "encoder.pos_conv.0."


def with_parametrizations(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the two tensors of weight normalisation as newer versions of PyTorch do."""
    for index, letter in enumerate("gv"):
        old, new = f"{WEIGHT_NORM}weight_{letter}", f"{WEIGHT_NORM}parametrizations.weight.original{index}"
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert sum("parametrizations" in name for name in tensors) == 2
    return tensors


RESAVED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "parametrizations": with_parametrizations,
    "DistributedDataParallel": lambda tensors: {f"module.{name}": t for name, t in tensors.items()},
    "AveragedModel": lambda tensors: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": t for name, t in tensors.items()},
    },
    "compiled": lambda tensors: {f"_orig_mod.{name}": t for name, t in tensors.items()},
    "compiled and distributed": lambda tensors: {
        f"module._orig_mod.{name}": t for name, t in with_parametrizations(tensors).items()
    },
    "a compiled layer": lambda tensors: {
        name.replace("encoder.layers.1.", "encoder.layers.1._orig_mod."): t for name, t in tensors.items()
    },
    "Lightning": lambda tensors: {
        "state_dict": {f"model.{name}": t for name, t in tensors.items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "epoch": 3,
    },
    "nested": lambda tensors: {"model_state_dict": {"model": tensors}, "step": torch.tensor(3)},
    "only an average": lambda tensors: {"ema": tensors},
    "an average beside": lambda tensors: {
        "model": tensors,
        "ema": {name: torch.zeros_like(t) for name, t in tensors.items()},
        "optimizer": {"exp_avg": {name: torch.ones_like(t) for name, t in tensors.items()}},
    },
}
"""How training programs save weights again: from tensors by name to the content of a file."""


@pytest.mark.parametrize("form", RESAVED)
@pytest.mark.parametrize("layout", ["released", "fairseq"])
def test_weights_that_were_saved_again_load_exactly(tmp_path, form, layout):
    tensors = make_detector().state_dict()
    if layout == "fairseq":
        tensors = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    torch.save(RESAVED[form](tensors), tmp_path / "x.pt")
    loaded = load_detector(tmp_path / "x.pt", accept_front_end=layout == "fairseq")
    weights = loaded.detector.state_dict()
    prefix = PREFIX if layout == "fairseq" else ""
    assert all(torch.equal(weights[prefix + name], tensor) for name, tensor in tensors.items())
    assert ("those of ema" in loaded.coverage) == (form == "only an average")
    assert (
        "those of model; ema, optimizer.exp_avg left out" in loaded.coverage.replace(".m_ssl.model", "")
    ) == (form == "an average beside")


def test_several_sets_of_weights_or_names_are_refused(tmp_path):
    tensors = make_detector().state_dict()
    average = {f"ema.{name}": tensor for name, tensor in tensors.items()}
    name = "proj_fc.bias"
    foreign = {f"upstream.{name.removeprefix(PREFIX)}": t for name, t in tensors.items() if PREFIX in name}
    contents: dict[str, tuple[object, str]] = {
        "mixed": (tensors | average, r"several sets of weights \(m_ssl.model, ema.m_ssl.model\)"),
        "two": (
            {"model": tensors, "state_dict": average},
            r"several sets of weights \(model.m_ssl.model, state",
        ),
        "twice": (
            tensors | {f"module.{name}": tensors[name]},
            f"two tensors for {name}, one .* module.{name}",
        ),
        "foreign": (foreign, r"front end is named upstream\.feature_extractor…, which is not a known layout"),
        "more": (tensors | {"loss.weight": torch.ones(2)}, "1 unexpected: loss.weight"),
    }
    for file, (content, message) in contents.items():
        torch.save(content, tmp_path / file)
        with pytest.raises(InputError, match=message):
            load_detector(tmp_path / file)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A detector as a transformers folder, and the digest of its weights."""
    folder, detector = tmp_path_factory.mktemp("exported"), make_detector()
    export_transformers(detector, folder)
    return folder, weights_digest(detector.state_dict())


@pytest.fixture
def folder(exported: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the exported folder."""
    return Path(shutil.copytree(exported[0], tmp_path / "folder"))


def test_the_file_that_is_named_in_a_transformers_folder_is_the_one_that_loads(folder, exported):
    tensors = load_file(folder / "model.safetensors")
    older = tensors | {"classifier.bias": torch.tensor([5.0, 7.0])}
    torch.save(older, folder / "pytorch_model.bin")
    save_file({f"module.{name}": t for name, t in older.items()}, folder / "older.safetensors")
    assert load_detector(folder).digest == load_detector(folder / "model.safetensors").digest == exported[1]
    for name in ("pytorch_model.bin", "older.safetensors"):
        loaded = load_detector(folder / name)
        assert loaded.coverage.startswith(f"{folder / name}: ")
        assert torch.equal(loaded.detector.head.state_dict()["bias"], older["classifier.bias"])
    (folder / "config.json").unlink()
    with pytest.raises(
        InputError, match=r"older.safetensors: has the tensor names of .* must have a config.json"
    ):
        load_detector(folder / "older.safetensors")


def write_shards(folder: Path, kind: str) -> Path:
    """Replace model.safetensors by two shards and their index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, ending = ("pytorch_model", "bin") if kind == "torch" else ("model", "safetensors")
    save: Callable[[dict[str, Tensor], Path], object] = torch.save if kind == "torch" else save_file
    names = sorted(tensors)
    files: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{number:05d}-of-00002.{ending}"
        save({name: tensors[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_sharded_weights_load_completely_or_name_what_is_missing(folder, exported, kind):
    index = write_shards(folder, kind)
    assert load_detector(folder).digest == load_detector(index).digest == exported[1]
    second = next(folder.glob("*-00002-of-00002*"))
    with pytest.raises(InputError, match=r"one of several shards; give their folder, or their index"):
        load_detector(second)
    content = json.loads(index.read_text())
    odd = {
        '{"weight_map": {}}': "its weight_map names no files",
        "[]": "its weight_map names no files",
        "{": "invalid JSON",
        json.dumps({"weight_map": {"a": "../x.bin"}}): r"names '../x.bin', which is not a file of its folder",
        json.dumps({"weight_map": {"a": 3}}): "names 3, which is not a file of its folder",
        json.dumps({"weight_map": content["weight_map"] | {"b": second.name}}): "lack 1 of its tensors: b",
    }
    for text, message in odd.items():
        index.write_text(text)
        with pytest.raises(InputError, match=message):
            load_detector(folder)
    index.write_text(json.dumps(content))
    second.unlink()
    with pytest.raises(InputError, match=f"{second.name}: missing, but {index.name} names it"):
        load_detector(folder)


ODD_SETTINGS: dict[str, tuple[object, str]] = {
    "feat_extract_norm": ("batch", "feat_extract_norm is 'batch'; known: layer, group"),
    "num_attention_heads": (7, "hidden_size 64 is not a multiple of num_attention_heads 7"),
    "hidden_size": ([64], r"hidden_size is \[64\]; it must be a positive integer"),
    "intermediate_size": ("128", "intermediate_size is '128'; it must be a positive integer"),
    "num_hidden_layers": (10**9, "has num_hidden_layers 1000000000, but model.safetensors has 2 layers"),
    "num_conv_pos_embedding_groups": (0, "num_conv_pos_embedding_groups is 0; it must be a positive integer"),
    "do_stable_layer_norm": ("yes", "do_stable_layer_norm is 'yes'; it must be true or false"),
    "hidden_dropout": (None, "hidden_dropout is None; it must be between 0 and 1"),
    "conv_dim": (32, "has conv_dim 32; supported: one width for all 7 layers"),
    "conv_bias": ("missing", "has no conv_bias"),
    "model_type": ("wavlm", "has model_type 'wavlm'; supported: 'wav2vec2'"),
    "id2label": (["spoof"], r"has labels \[\] in id2label"),
}


@pytest.mark.parametrize("name", ODD_SETTINGS)
def test_an_odd_setting_of_transformers_is_named(folder, name):
    value, message = ODD_SETTINGS[name]
    settings = json.loads((folder / "config.json").read_text()) | {name: value}
    if value == "missing":
        del settings[name]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"config.json: {message}"):
        load_detector(folder)


def test_a_released_detector_loads_from_its_folder(tmp_path):
    detector = make_detector()
    save_file(detector.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert load_detector(tmp_path).digest == weights_digest(detector.state_dict())


def test_odd_metadata_of_our_own_files_is_an_error(tmp_path):
    config = json.loads(config_to_json(DetectorConfig(VARIANTS["tiny"])))
    config["front_end"]["num_layers"] = [2]
    save_file({"a": torch.ones(1)}, tmp_path / "x", {"detector": json.dumps(config)})
    with pytest.raises(InputError, match=r"does not describe a detector: num_layers is \[2\]; it must be"):
        load_detector(tmp_path / "x")


def test_a_copy_with_other_metadata_has_the_same_tensors(tmp_path):
    detector = make_detector()
    digest = save_detector(detector, tmp_path / "x", {"step": "7"})
    for text in ("é" * 7, "a", "b" * 5000, ""):  # headers of several lengths
        source, target = io.BytesIO((tmp_path / "x").read_bytes()), io.BytesIO()
        copy_with_metadata(source, target, {"text": text})
        (tmp_path / "x").write_bytes(target.getvalue())
        header = read_header(lambda start, end: target.getvalue()[start:end])  # noqa: B023
        assert (header.metadata["text"], header.num_bytes) == (text, len(target.getvalue()))
        assert int.from_bytes(target.getvalue()[:8], "little") % 8 == 0, "the tensors are aligned"
    loaded = load_detector(tmp_path / "x")
    assert loaded.digest == digest and {"step": "7", "digest": digest}.items() <= loaded.metadata.items()
    assert all(
        torch.equal(tensor, loaded.detector.state_dict()[name])
        for name, tensor in detector.state_dict().items()
    )
    with pytest.raises(ValueError, match="a header of 0 bytes"):
        copy_with_metadata(io.BytesIO(), io.BytesIO(), {})


def test_the_header_tells_metadata_and_size_without_the_weights(tmp_path):
    digest = save_detector(make_detector(), tmp_path / "x", {})
    content = (tmp_path / "x").read_bytes()
    header = read_header(lambda start, end: content[start:end])
    assert (header.metadata["digest"], header.num_bytes) == (digest, len(content))
    for damaged in (
        b"",
        b"\x01" * 8,
        (2).to_bytes(8, "little") + b"[]",
        (8).to_bytes(8, "little") + b'{"a":{}}',
    ):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"."):
            read_header(lambda start, end: (tmp_path / "damaged").read_bytes()[start:end])
