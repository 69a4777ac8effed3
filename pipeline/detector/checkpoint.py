"""Detectors on disk: saved in the released layout, loaded from any known format, strictly.

Every tensor of the network is filled from the file and every tensor of the file has its place, or nothing is
loaded and the error names what does not fit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from pipeline.detector.formats import PRE_TRAINING_ONLY, Contents, encoder_to_json, read_checkpoint
from pipeline.detector.network import PREFIX, VARIANTS, Detector, EncoderConfig
from pipeline.detector.tensors import write_safetensors
from pipeline.errors import InputError

HEAD = ("proj_fc.weight", "proj_fc.bias")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A detector from a file, in evaluation mode on the CPU, and where it comes from."""

    detector: Detector
    variant: str
    """Published variants of equal shape are one network: w2v_large, mms_300m and xlsr_300m share a name here,
    unless the caller or the file says which it is."""
    digest: str
    metadata: dict[str, str]
    coverage: str
    """One line for the log: what was filled, and from what."""


def save_detector(detector: Detector, path: Path, metadata: Mapping[str, str]) -> str:
    """Write a detector as safetensors in the released layout, whole or invisible; return its weights' digest.

    `metadata` goes into the file's header as it is; `encoder`, `variant` (unless given) and `digest` are added.
    What the detector carries from pre-training goes out with it.
    """
    weights = {name: tensor.float() for name, tensor in detector.state_dict().items()}
    digest = weights_digest(weights)
    reserved = {"encoder", "digest"} & set(metadata)
    assert not reserved, f"metadata may not set {sorted(reserved)}"
    header = {"variant": _name_variant(detector.config), **metadata}
    header |= {"encoder": encoder_to_json(detector.config), "digest": digest}
    write_safetensors({**detector.pretraining_tensors, **weights}, path, header)
    return digest


def load_detector(path: Path, variant: str | None = None, *, accept_front_end: bool = False) -> Loaded:
    """Build the detector that a checkpoint holds.

    `variant` names the network where the file does not tell it. A file without a head is an error, unless
    `accept_front_end`: then the head is random, from torch's seed.
    Raises InputError for a file that is not whole, does not fit, or was changed after it was saved.
    """
    contents = read_checkpoint(path)
    config = _choose_config(contents, variant, path)
    has_head = any(name in contents.tensors for name in HEAD)
    # Random weights for the 2B take half a minute; where the file fills all of them they are never made.
    with torch.device("cpu" if accept_front_end and not has_head else "meta"):
        detector = Detector(config)
    coverage = _fill(detector, contents, path, accept_front_end)
    digest = weights_digest(detector.state_dict())
    if contents.metadata.get("digest", digest) != digest:
        raise InputError(f"{path}: its weights are not those that were saved: the digest differs")
    name = variant or contents.metadata.get("variant") or _name_variant(config)
    return Loaded(detector.eval(), name, digest, contents.metadata, coverage)


def load_weights(detector: Detector, path: Path, *, accept_front_end: bool = False) -> str:
    """Fill a detector that stands already, and return the coverage line; errors as in `load_detector`."""
    contents = read_checkpoint(path)
    if contents.config is not None and not _is_same_network(contents.config, detector.config):
        raise InputError(f"{path}: holds {contents.config}, not {detector.config}")
    return _fill(detector, contents, path, accept_front_end)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hash names, shapes, types and values, whatever the order, device or file: sha256, 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fill(detector: Detector, contents: Contents, path: Path, accept_front_end: bool) -> str:
    expected = detector.state_dict()
    weights = {name: tensor for name, tensor in contents.tensors.items() if not _is_pretraining(name)}
    pretraining_tensors = {name: tensor for name, tensor in contents.tensors.items() if _is_pretraining(name)}
    num_filled = len(weights)
    is_headless = not any(name in weights for name in HEAD)
    if is_headless and accept_front_end:
        weights |= {name: expected[name] for name in HEAD}
    problems = _describe_misfits(expected, weights)
    if problems:
        hint = "; it has no head: a front end to train from, not a detector" if is_headless else ""
        raise InputError(f"{path} ({contents.format}): {'; '.join(problems)}{hint}")
    is_meta = any(tensor.is_meta for tensor in expected.values())
    detector.load_state_dict(weights, strict=True, assign=is_meta)
    detector.pretraining_tensors = pretraining_tensors
    num_weights = sum(tensor.numel() for tensor in weights.values())
    line = f"{path}: {num_filled} of {len(expected)} tensors ({num_weights / 1e6:.1f} M weights)"
    line += f" filled from a checkpoint in {contents.format} format"
    line += ", the head left as it was initialised" if num_filled < len(expected) else ""
    return line + (f", {len(pretraining_tensors)} pre-training tensors kept" if pretraining_tensors else "")


def _is_pretraining(name: str) -> bool:
    return name.removeprefix(PREFIX).startswith(PRE_TRAINING_ONLY)


def _describe_misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    wrong = [
        f"{name} {list(found[name].shape)} for {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = (
        ("missing", expected.keys() - found.keys()),
        ("left over", found.keys() - expected.keys()),
        ("of wrong shape", wrong),
    )
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]


def _some(names: Iterable[str], at_most: int = 5) -> str:
    names = sorted(names)
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def _choose_config(contents: Contents, variant: str | None, path: Path) -> EncoderConfig:
    if variant is not None:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
        if contents.config is not None and not _is_same_network(contents.config, VARIANTS[variant]):
            raise InputError(f"{path}: is not {variant}: it says {contents.config}")
        return VARIANTS[variant]
    if contents.format == "bonafide" and contents.config is not None:
        return contents.config
    if contents.config is not None:
        # What transformers trained with is not the recipe of the published variant.
        return VARIANTS.get(_name_variant(contents.config), contents.config)
    return _recognise(contents.tensors, path)


def _recognise(tensors: Mapping[str, Tensor], path: Path) -> EncoderConfig:
    """Tell the variant by what sets each one apart; whether everything fits is for the strict load to say."""
    places = [re.match(re.escape(PREFIX) + r"encoder\.layers\.(\d+)\.", name) for name in tensors]
    norm = tensors.get(PREFIX + "encoder.layer_norm.weight")
    convolutions = PREFIX + "feature_extractor.conv_layers."
    facts: dict[str, object] = {
        "num_layers": len({place[1] for place in places if place}),
        "width": None if norm is None else norm.numel(),
        "conv_norm": "group" if f"{convolutions}0.2.weight" in tensors else "layer",
        "conv_bias": f"{convolutions}0.0.bias" in tensors,
    }
    for config in VARIANTS.values():
        if all(getattr(config, name) == value for name, value in facts.items()):
            return config
    raise InputError(
        f"{path}: its shape is no known variant: {facts}; name the variant to see what does not fit"
    )


def _is_same_network(one: EncoderConfig, other: EncoderConfig) -> bool:
    """Compare all but what only training uses."""
    noise = {"dropout", "attention_dropout", "input_dropout", "layer_drop", "conv_gradient_scale"}
    names = {field.name for field in fields(EncoderConfig)} - noise
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _name_variant(config: EncoderConfig) -> str:
    """Name the first published variant that is this network."""
    return next((name for name, known in VARIANTS.items() if _is_same_network(known, config)), "unnamed")
