"""Reads and writes transformers folders: Wav2Vec2 and HuBERT front ends, and audio classifiers on top of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.heads import MeanLinear
from pipeline.detector.network import PREFIX, Detector, FrontEnd
from pipeline.detector.tensors import read_safetensors, read_torch, to_float32, write_safetensors
from pipeline.detector.variants import CONVOLUTIONS, NORM_EPSILON, EncoderConfig
from pipeline.errors import InputError

LABELS = ("spoof", "bonafide")

_TO_TRANSFORMERS = (
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
)

_PRETRAINING_FROM_TRANSFORMERS = {
    "masked_spec_embed": "mask_emb",
    "quantizer.codevectors": "quantizer.vars",
    "quantizer.weight_proj.weight": "quantizer.weight_proj.weight",
    "quantizer.weight_proj.bias": "quantizer.weight_proj.bias",
    "project_q.weight": "project_q.weight",
    "project_q.bias": "project_q.bias",
    "project_hid.weight": "final_proj.weight",
    "project_hid.bias": "final_proj.bias",
}


def _transformers_name(name: str) -> str:
    """Translate the name of a front-end tensor, without prefix, to its name in transformers' Wav2Vec2Model."""
    for pattern, replacement in _TO_TRANSFORMERS:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def read_transformers(folder: Path) -> tuple[dict[str, Tensor], EncoderConfig]:
    """Read a folder into the released layout.

    Returns:
        Tensors by their released names, and the shape of the front end.

    Raises:
        InputError: a file is missing, or config.json has settings that our network does not support.
    """
    settings = _read_json(folder / "config.json")
    config = _encoder_from_transformers(settings, folder)
    tensors: dict[str, Tensor] = {}
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        tensors, _ = read_safetensors(folder / "model.safetensors")
    elif index.exists():
        for name in sorted(set(_read_json(index).get("weight_map", {}).values())):
            tensors |= read_safetensors(folder / Path(name).name)[0]
    elif (folder / "pytorch_model.bin").exists():
        tensors = read_torch(folder / "pytorch_model.bin")
    else:
        raise InputError(f"{folder}: has a config.json but no model.safetensors")
    with torch.device("meta"):
        names = FrontEnd(config).state_dict()
    released = {_transformers_name(name): name for name in names} | _PRETRAINING_FROM_TRANSFORMERS
    weight_norm = "encoder.pos_conv_embed.conv."
    released[weight_norm + "weight_g"] = "encoder.pos_conv.0.weight_g"
    released[weight_norm + "weight_v"] = "encoder.pos_conv.0.weight_v"
    tensors = to_float32(tensors)
    renamed = _take_head(tensors, settings, folder)
    for name, tensor in tensors.items():
        bare = name.removeprefix("wav2vec2.").removeprefix("hubert.")
        renamed[PREFIX + released.get(bare, bare)] = tensor
    return renamed, config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path.parent}: not a transformers folder: it has no {path.name}") from error
    except ValueError as error:
        raise InputError(f"{path}: invalid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, not a {type(content).__name__}")
    return content


def _encoder_from_transformers(settings: Mapping[str, Any], folder: Path) -> EncoderConfig:
    supported = {
        "model_type": ("wav2vec2", "hubert"),
        "conv_kernel": ([kernel for kernel, _ in CONVOLUTIONS],),
        "conv_stride": ([stride for _, stride in CONVOLUTIONS],),
        "hidden_act": ("gelu",),
        "feat_extract_activation": ("gelu",),
        "feat_proj_layer_norm": (True, None),
        "layer_norm_eps": (NORM_EPSILON,),
        "conv_pos_batch_norm": (False, None),
        "add_adapter": (False, None),
        "adapter_attn_dim": (None,),
    }
    for name, values in supported.items():
        if settings.get(name) not in values:
            raise InputError(
                f"{folder}: config.json has {name} {settings.get(name)!r}; supported: {values[0]!r}"
            )
    try:
        conv_widths = settings["conv_dim"]
        if len(set(conv_widths)) != 1:
            raise InputError(
                f"{folder}: config.json has conv_dim {conv_widths}; supported: one width for all layers"
            )
        return EncoderConfig(
            num_layers=settings["num_hidden_layers"],
            width=settings["hidden_size"],
            ffn_width=settings["intermediate_size"],
            num_heads=settings["num_attention_heads"],
            conv_width=conv_widths[0],
            conv_norm=settings["feat_extract_norm"],
            conv_bias=settings["conv_bias"],
            pre_norm=settings["do_stable_layer_norm"],
            position_kernel=settings["num_conv_pos_embeddings"],
            position_groups=settings["num_conv_pos_embedding_groups"],
            dropout=settings.get("hidden_dropout", 0.0),
            attention_dropout=settings.get("attention_dropout", 0.0),
            input_dropout=settings.get("feat_proj_dropout", 0.0),
            layer_drop=settings.get("layerdrop", 0.0),
        )
    except KeyError as error:
        raise InputError(f"{folder}: config.json has no {error.args[0]}") from error


def _take_head(tensors: dict[str, Tensor], settings: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """Remove the two linear layers of an audio classifier from `tensors` and return them merged into one head."""
    names = ("projector.weight", "projector.bias", "classifier.weight", "classifier.bias")
    if not all(name in tensors for name in names):
        return {}
    projector, projector_bias, classifier, classifier_bias = (tensors.pop(name).double() for name in names)
    labels = [str(label) for _, label in sorted(settings.get("id2label", {}).items())]
    if sorted(labels) != sorted(LABELS):
        raise InputError(f"{folder}: config.json has labels {labels} in id2label; supported: {list(LABELS)}")
    order = [labels.index(label) for label in LABELS]
    # There is no non-linearity between the two layers, and the mean over frames commutes with the first.
    return {
        f"{MeanLinear.module_name}.weight": (classifier @ projector)[order].float(),
        f"{MeanLinear.module_name}.bias": (classifier @ projector_bias + classifier_bias)[order].float(),
    }


def export_transformers(detector: Detector, folder: Path) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors for transformers.

    `AutoModelForAudioClassification.from_pretrained(folder)` then gives the same logits, and
    `AutoModel.from_pretrained(folder)` gives the front end. The projector that transformers has before its
    classifier becomes the identity.

    Raises:
        InputError: transformers has no class for the head of this detector.
    """
    config, head = detector.config.front_end, detector.head
    if not isinstance(head, MeanLinear):
        raise InputError(
            f"{folder}: transformers has no class for a {detector.config.head.name} head; "
            "only detectors with a mean_linear head can be exported"
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in detector.state_dict().items():
        if name.startswith(PREFIX):
            tensors["wav2vec2." + _transformers_name(name.removeprefix(PREFIX))] = tensor
    tensors["projector.weight"] = torch.eye(config.width)
    tensors["projector.bias"] = torch.zeros(config.width)
    tensors["classifier.weight"] = head.weight
    tensors["classifier.bias"] = head.bias
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, folder / "model.safetensors", {"format": "pt"})
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "do_normalize": True,
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
    for name, settings in (
        ("preprocessor_config.json", extractor),
        ("config.json", transformers_settings(config)),
    ):
        (folder / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def transformers_settings(config: EncoderConfig) -> dict[str, object]:
    """Return the config.json of transformers' Wav2Vec2ForSequenceClassification for a front end."""
    return {
        "architectures": ["Wav2Vec2ForSequenceClassification"],
        "model_type": "wav2vec2",
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_width,
        "classifier_proj_size": config.width,
        "conv_dim": [config.conv_width] * len(CONVOLUTIONS),
        "conv_kernel": [kernel for kernel, _ in CONVOLUTIONS],
        "conv_stride": [stride for _, stride in CONVOLUTIONS],
        "num_feat_extract_layers": len(CONVOLUTIONS),
        "conv_bias": config.conv_bias,
        "feat_extract_norm": config.conv_norm,
        "do_stable_layer_norm": config.pre_norm,
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        "layer_norm_eps": NORM_EPSILON,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "hidden_dropout": config.dropout,
        "activation_dropout": 0.0,
        "attention_dropout": config.attention_dropout,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": config.layer_drop,
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
    }
