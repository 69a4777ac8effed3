"""The checkpoint formats in the wild, each read into the released layout.

Known by content, not by name: our own safetensors, released AntiDeepfake detectors (torch or safetensors),
fairseq `.pt` files, and transformers folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor

from pipeline.detector.huggingface import read_transformers
from pipeline.detector.network import PREFIX
from pipeline.detector.tensors import read_safetensors, read_torch, to_float32
from pipeline.detector.variants import EncoderConfig
from pipeline.errors import InputError

PRE_TRAINING_ONLY = ("mask_emb", "quantizer.", "project_q.", "final_proj.", "label_embs_concat")
"""Beginnings of the tensors that pre-training needs and a detector does not: never built, always kept for saving."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds, in the released layout."""

    format: str
    tensors: dict[str, Tensor]
    config: EncoderConfig | None
    """None where the file does not say it; its shapes then tell all but the number of attention heads."""
    metadata: dict[str, str]


def read_checkpoint(path: Path) -> Contents:
    """Read a checkpoint of any known format; tensors come back in float32 on the CPU.

    Raises InputError for a file that is missing, damaged or of no known format.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such checkpoint")
    if path.is_dir():
        return Contents("transformers", *read_transformers(path), {})
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        tensors, metadata = read_safetensors(path)
        if "encoder" in metadata:
            config = _parse_encoder(metadata["encoder"], path)
            return Contents("bonafide", to_float32(tensors), config, metadata)
        if (
            "feature_projection.projection.weight" in "\n".join(tensors)
            and (path.parent / "config.json").exists()
        ):
            return Contents("transformers", *read_transformers(path.parent), {})
        return _released_or_fairseq(tensors, path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _released_or_fairseq(read_torch(path), path)
    raise InputError(f"{path}: neither safetensors nor a torch file nor a transformers folder")


def encoder_to_json(config: EncoderConfig) -> str:
    """Spell the shape of a front end for the metadata of our own files."""
    return json.dumps({field.name: getattr(config, field.name) for field in fields(config)})


def _parse_encoder(text: str, path: Path) -> EncoderConfig:
    try:
        return EncoderConfig(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata does not describe an encoder: {error}") from error


def _released_or_fairseq(tensors: Mapping[str, Tensor], path: Path) -> Contents:
    if any(name.startswith(PREFIX) for name in tensors):
        return Contents("AntiDeepfake", to_float32(tensors), None, {})
    if any(name.startswith("feature_extractor.conv_layers.0.0.") for name in tensors):
        prefixed = {PREFIX + name: tensor for name, tensor in tensors.items()}
        return Contents("fairseq", to_float32(prefixed), None, {})
    some = ", ".join(sorted(tensors)[:3])
    raise InputError(
        f"{path}: holds no wav2vec 2.0 or HuBERT weights of a known layout (some of its tensors: {some})"
    )
