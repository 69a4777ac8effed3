"""Reads and writes models of transformers: Wav2Vec2 and HuBERT front ends, and audio classifiers on top of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.files import CONFIG
from pipeline.detector.heads import MeanLinear
from pipeline.detector.network import PREFIX, Detector, FrontEnd
from pipeline.detector.tensors import to_float32, write_safetensors
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


def from_transformers(tensors: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Tensor], EncoderConfig]:
    """Rename tensors to the released layout.

    Args:
        tensors: with the names of transformers; those of weight normalisation are `weight_g` and `weight_v`.
        file: where they are from; config.json is in its folder.

    Returns:
        Tensors by their released names, and the shape of the front end.

    Raises:
        InputError: config.json is missing or damaged, or has settings that our network does not support.
    """
    settings_file = file.parent / CONFIG
    settings = _read_settings(settings_file, file)
    config = _encoder_from_transformers(settings, settings_file)
    _check_num_layers(config, tensors, settings_file, file)
    with torch.device("meta"):
        names = FrontEnd(config).state_dict()
    released = {_transformers_name(name): name for name in names} | _PRETRAINING_FROM_TRANSFORMERS
    weight_norm = "encoder.pos_conv_embed.conv."
    released[weight_norm + "weight_g"] = "encoder.pos_conv.0.weight_g"
    released[weight_norm + "weight_v"] = "encoder.pos_conv.0.weight_v"
    others = to_float32(tensors)
    renamed = _take_head(others, settings, settings_file)
    for name, tensor in others.items():
        bare = name.removeprefix("wav2vec2.").removeprefix("hubert.")
        renamed[PREFIX + released.get(bare, bare)] = tensor
    return renamed, config


def _read_settings(path: Path, weights: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{weights}: has the tensor names of transformers, so its folder must have a {path.name}; "
            "copy that file, too"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: invalid JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, not a {type(content).__name__}")
    return content


_SUPPORTED: Mapping[str, tuple[object, ...]] = {
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
"""Settings that our network has only with these values; None stands for a setting that is not given."""

_FIELDS = {
    "num_layers": "num_hidden_layers",
    "width": "hidden_size",
    "ffn_width": "intermediate_size",
    "num_heads": "num_attention_heads",
    "conv_norm": "feat_extract_norm",
    "conv_bias": "conv_bias",
    "pre_norm": "do_stable_layer_norm",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
}
"""Field of EncoderConfig → setting of transformers."""

_DROPOUT_FIELDS = {
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "input_dropout": "feat_proj_dropout",
    "layer_drop": "layerdrop",
}
"""The same for settings that need not be given."""


def _encoder_from_transformers(settings: Mapping[str, Any], path: Path) -> EncoderConfig:
    for name, values in _SUPPORTED.items():
        if settings.get(name) not in values:
            raise InputError(f"{path}: has {name} {settings.get(name)!r}; supported: {values[0]!r}")
    widths = settings.get("conv_dim")
    if not isinstance(widths, list) or widths != widths[:1] * len(CONVOLUTIONS):
        raise InputError(
            f"{path}: has conv_dim {widths!r}; supported: one width for all {len(CONVOLUTIONS)} layers"
        )
    try:
        fields = {field: settings[name] for field, name in _FIELDS.items()}
        fields |= {field: settings.get(name, 0.0) for field, name in _DROPOUT_FIELDS.items()}
        return EncoderConfig(conv_width=widths[0], **fields)
    except KeyError as error:
        raise InputError(f"{path}: has no {error.args[0]}") from error
    except ValueError as error:
        names = _FIELDS | _DROPOUT_FIELDS | {"conv_width": "conv_dim"}
        reason = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(error))
        raise InputError(f"{path}: {reason}") from error


def _check_num_layers(config: EncoderConfig, tensors: Mapping[str, Tensor], path: Path, file: Path) -> None:
    """Refuse settings of another model, before a network with any number of layers is built from them."""
    layers = {layer for name in tensors for layer in re.findall(r"encoder\.layers\.(\d+)\.", name)}
    if config.num_layers != len(layers):
        raise InputError(
            f"{path}: has num_hidden_layers {config.num_layers}, but {file.name} has {len(layers)} layers"
        )


def _take_head(tensors: dict[str, Tensor], settings: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Remove the two linear layers of an audio classifier from `tensors` and return them merged into one head."""
    names = ("projector.weight", "projector.bias", "classifier.weight", "classifier.bias")
    if not all(name in tensors for name in names):
        return {}
    labels_by_index = settings.get("id2label")
    labels = []
    if isinstance(labels_by_index, dict):
        labels = [str(label) for _, label in sorted(labels_by_index.items())]
    if sorted(labels) != sorted(LABELS):
        raise InputError(f"{path}: has labels {labels} in id2label; supported: {list(LABELS)}")
    projector, projector_bias, classifier, classifier_bias = (tensors.pop(name).double() for name in names)
    size, width = len(projector_bias.reshape(-1)), settings["hidden_size"]
    shapes = [list(tensor.shape) for tensor in (projector, projector_bias, classifier, classifier_bias)]
    expected = [[size, width], [size], [len(LABELS), size], [len(LABELS)]]
    if shapes != expected:
        raise InputError(f"{path.parent}: {', '.join(names)} have shapes {shapes} instead of {expected}")
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
        (CONFIG, transformers_settings(config)),
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
