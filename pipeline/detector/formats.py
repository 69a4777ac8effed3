"""Reads checkpoints of every supported format into the released layout.

The content decides the format, not the file name: our own safetensors, released AntiDeepfake detectors (torch or
safetensors), fairseq `.pt` files, and transformers folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from pipeline.detector.huggingface import read_transformers
from pipeline.detector.network import PREFIX
from pipeline.detector.tensors import read_safetensors, read_torch, to_float32
from pipeline.detector.variants import DetectorConfig, EncoderConfig, HeadConfig
from pipeline.errors import InputError

PRE_TRAINING_ONLY = ("mask_emb", "quantizer.", "project_q.", "final_proj.", "label_embs_concat")
"""Prefixes of tensors that only pre-training uses: not part of the network, but kept for saving."""

METADATA_KEY = "detector"
"""Key of the config in the metadata of our own files; its presence identifies the format."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Content of a checkpoint, in the released layout."""

    format: str
    tensors: dict[str, Tensor]
    config: DetectorConfig | None
    """None if the file does not state it."""
    metadata: dict[str, str]


def read_checkpoint(path: Path) -> Contents:
    """Read a checkpoint of any supported format, as float32 tensors on the CPU.

    Raises:
        InputError: the file is missing, damaged or of an unknown format.
    """
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint")
    if path.is_dir():
        return _transformers(path)
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        tensors, metadata = read_safetensors(path)
        if METADATA_KEY in metadata:
            config = _parse_config(metadata[METADATA_KEY], path)
            return Contents("bonafide", to_float32(tensors), config, metadata)
        if (
            "feature_projection.projection.weight" in "\n".join(tensors)
            and (path.parent / "config.json").exists()
        ):
            return _transformers(path.parent)
        return _released_or_fairseq(tensors, path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _released_or_fairseq(read_torch(path), path)
    raise InputError(f"{path}: not a safetensors file, a torch file or a transformers folder")


def config_to_json(config: DetectorConfig) -> str:
    """Serialise a config for the metadata of our own files."""
    return json.dumps(asdict(config))


def _parse_config(text: str, path: Path) -> DetectorConfig:
    try:
        content = json.loads(text)
        return DetectorConfig(EncoderConfig(**content["front_end"]), HeadConfig(**content["head"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata does not describe a detector: {error}") from error


def _transformers(folder: Path) -> Contents:
    tensors, front_end = read_transformers(folder)
    return Contents("transformers", tensors, DetectorConfig(front_end), {})


def _released_or_fairseq(tensors: Mapping[str, Tensor], path: Path) -> Contents:
    if any(name.startswith(PREFIX) for name in tensors):
        return Contents("AntiDeepfake", to_float32(tensors), None, {})
    if any(name.startswith("feature_extractor.conv_layers.0.0.") for name in tensors):
        prefixed = {PREFIX + name: tensor for name, tensor in tensors.items()}
        return Contents("fairseq", to_float32(prefixed), None, {})
    some = ", ".join(sorted(tensors)[:3])
    raise InputError(
        f"{path}: no wav2vec 2.0 or HuBERT weights in a known layout (some of its tensors: {some})"
    )
