"""Saves detectors in the released layout, and loads them strictly from any supported format.

If the tensors of the file and of the network do not match one to one, nothing is loaded, and the error names the
tensors that differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.detector.formats import (
    METADATA_KEY,
    PRE_TRAINING_ONLY,
    Contents,
    config_to_json,
    read_checkpoint,
)
from pipeline.detector.heads import head_class
from pipeline.detector.lora import merged_state
from pipeline.detector.network import PREFIX, VARIANTS, Detector, DetectorConfig, EncoderConfig
from pipeline.detector.tensors import write_safetensors
from pipeline.detector.variants import HeadConfig
from pipeline.errors import InputError, did_you_mean


@dataclass(frozen=True, slots=True)
class Loaded:
    """A detector loaded from a file, in evaluation mode on the CPU, and its origin."""

    detector: Detector
    variant: str
    """Name of the front end. w2v_large, mms_300m and xlsr_300m have the same shape: unless the caller or the
    file names the variant, the first of them is given."""
    digest: str
    metadata: Mapping[str, str]
    coverage: str
    """One line for the log: how many tensors were filled, and from which file."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How a checkpoint filled a detector."""

    digest: str
    """Digest of all weights of the file; with those of the head of the detector if the file has no head."""
    coverage: str
    """One line for the log: how many tensors were filled, and from which file."""


def save_detector(detector: Detector, path: Path, metadata: Mapping[str, str]) -> str:
    """Write a detector as safetensors in the released layout, atomically.

    Args:
        detector: its pre-training tensors are written too; the adapters of a training are merged into its weights.
        path: file to write.
        metadata: added to the header of the file, beside `detector`, `digest` and, unless given, `variant`.

    Returns:
        The digest of the weights.
    """
    weights = {name: tensor.float() for name, tensor in merged_state(detector).items()}
    digest = weights_digest(weights)
    reserved = {METADATA_KEY, "digest"} & set(metadata)
    assert not reserved, f"metadata may not set {sorted(reserved)}"
    header = {"variant": _name_variant(detector.config.front_end), **metadata}
    header |= {METADATA_KEY: config_to_json(detector.config), "digest": digest}
    write_safetensors({**detector.pretraining_tensors, **weights}, path, header)
    return digest


def load_detector(path: Path, variant: str | None = None, *, accept_front_end: bool = False) -> Loaded:
    """Build a detector from a checkpoint.

    Args:
        path: file or folder in any supported format.
        variant: name of the front end, for files that do not state it.
        accept_front_end: whether a file without a head is accepted; the head is then initialised at random from
            torch's seed.

    Raises:
        InputError: the file is damaged, does not match the network, or was changed after it was saved.
    """
    contents = read_checkpoint(path)
    config = _choose_config(contents, variant)
    # Initialising the 2B at random takes half a minute; on the meta device nothing is initialised.
    needs_random_head = accept_front_end and not _has_head(contents.tensors, config)
    with torch.device("cpu" if needs_random_head else "meta"):
        detector = Detector(config)
    filled = _fill(detector, contents, accept_front_end)
    name = variant or contents.metadata.get("variant") or _name_variant(config.front_end)
    return Loaded(detector.eval(), name, filled.digest, contents.metadata, filled.coverage)


def load_weights(detector: Detector, path: Path, *, accept_front_end: bool = False) -> Filled:
    """Load a checkpoint into an existing detector.

    Args:
        detector: unchanged if loading fails.
        path: file or folder in any supported format.
        accept_front_end: whether a file without a head, or with another head, is accepted; the head of the detector
            then keeps its weights.

    Raises:
        InputError: the file is damaged, does not match the detector, or was changed after it was saved.
    """
    contents = read_checkpoint(path)
    if contents.config is not None:
        head = contents.config.head if accept_front_end else detector.config.head
        _check_same_network(contents, contents.config, replace(detector.config, head=head))
    return _fill(detector, contents, accept_front_end)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 (64 hex digits) of names, shapes, types and values; independent of order and device."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fill(detector: Detector, contents: Contents, accept_front_end: bool) -> Filled:
    expected = detector.state_dict()
    weights = {name: tensor for name, tensor in contents.tensors.items() if not _is_pretraining(name)}
    pretraining_tensors = {name: tensor for name, tensor in contents.tensors.items() if _is_pretraining(name)}
    stored_head, wanted_head = _stored_head(contents), detector.config.head
    left_out = stored_head if accept_front_end and stored_head != wanted_head else None
    digest = None
    if left_out is not None:
        digest = weights_digest(weights)
        prefix = head_class(left_out).module_name + "."
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}
    num_filled = len(weights)
    is_headless = left_out is not None or not _has_head(weights, detector.config)
    if is_headless and accept_front_end:
        weights |= {name: tensor for name, tensor in expected.items() if not name.startswith(PREFIX)}
    problems = _describe_differences(expected, weights)
    if problems:
        hint = "; it has no head: it can initialise a training, but not score" if is_headless else ""
        raise InputError(f"{contents.file} ({contents.format}): {'; '.join(problems)}{hint}")
    _check_finite(weights, contents.file)
    digest = digest or weights_digest(weights)
    if contents.metadata.get("digest", digest) != digest:
        raise InputError(
            f"{contents.file}: the weights were changed after they were saved: the digest differs; "
            "copy or download the file again"
        )
    is_meta = any(tensor.is_meta for tensor in expected.values())
    detector.load_state_dict(weights, strict=True, assign=is_meta)
    detector.pretraining_tensors = pretraining_tensors
    num_weights = sum(tensor.numel() for tensor in weights.values())
    line = f"{contents.file}: {num_filled} of {len(expected)} tensors ({num_weights / 1e6:.1f} M weights)"
    line += f" filled from a checkpoint in {contents.format} format"
    line += f" ({contents.note})" if contents.note else ""
    line += f", its {left_out} head is left out" if left_out is not None else ""
    line += ", the head keeps its initial weights" if is_headless else ""
    line += f", {len(pretraining_tensors)} pre-training tensors kept" if pretraining_tensors else ""
    return Filled(digest, line)


def _check_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    # The sum of a tensor is finite unless a value is not, or large values overflow; it is much faster to compute.
    names = [
        name
        for name, tensor in weights.items()
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all()
    ]
    if names:
        raise InputError(
            f"{file}: NaN or infinite values in {_join_first(names)}; its training diverged, or the file is damaged"
        )


def _has_head(tensors: Mapping[str, Tensor], config: DetectorConfig) -> bool:
    prefix = head_class(config.head).module_name + "."
    return any(name.startswith(prefix) for name in tensors)


def _stored_head(contents: Contents) -> HeadConfig | None:
    """The head of a file; None if it has none. A file that does not describe its head can have that of the release."""
    config = contents.config.head if contents.config is not None else HeadConfig()
    prefix = head_class(config).module_name + "."
    return config if any(name.startswith(prefix) for name in contents.tensors) else None


def _is_pretraining(name: str) -> bool:
    return name.removeprefix(PREFIX).startswith(PRE_TRAINING_ONLY)


def _describe_differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    wrong = [
        f"{name} {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    unusable = [
        f"{name} {_type_name(given[name])} instead of {_type_name(tensor)}"
        for name, tensor in expected.items()
        if name in given and _type_name(given[name]) != _type_name(tensor)
    ]
    kinds = (
        ("missing", expected.keys() - given.keys()),
        ("unexpected", given.keys() - expected.keys()),
        ("of wrong shape", wrong),
        ("of wrong type", unusable),
    )
    return [f"{len(names)} {kind}: {_join_first(names)}" for kind, names in kinds if names]


def _type_name(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f"{tensor.layout} "
    return f"{layout}{tensor.dtype}".replace("torch.", "")


def _join_first(names: Iterable[str], at_most: int = 5) -> str:
    names = sorted(names)
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def _choose_config(contents: Contents, variant: str | None) -> DetectorConfig:
    if variant is not None:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant {variant!r}{did_you_mean(variant, VARIANTS)}")
        config = DetectorConfig(VARIANTS[variant])
        if contents.config is None:
            return config
        config = replace(config, head=contents.config.head)
        _check_same_network(contents, contents.config, config)
        return config
    if contents.format == "bonafide" and contents.config is not None:
        return contents.config
    if contents.config is not None:
        # The dropout in config.json is that of an earlier training, not that of the published variant.
        front_end = contents.config.front_end
        return replace(contents.config, front_end=VARIANTS.get(_name_variant(front_end), front_end))
    return DetectorConfig(_recognise(contents.tensors, contents.file))


def _recognise(tensors: Mapping[str, Tensor], path: Path) -> EncoderConfig:
    """Find the variant from the properties that differ between variants; the strict load checks everything else."""
    matches = [re.match(re.escape(PREFIX) + r"encoder\.layers\.(\d+)\.", name) for name in tensors]
    norm = tensors.get(PREFIX + "encoder.layer_norm.weight")
    convolutions = PREFIX + "feature_extractor.conv_layers."
    properties: dict[str, object] = {
        "num_layers": len({match[1] for match in matches if match}),
        "width": None if norm is None else norm.numel(),
        "conv_norm": "group" if f"{convolutions}0.2.weight" in tensors else "layer",
        "conv_bias": f"{convolutions}0.0.bias" in tensors,
    }
    for config in VARIANTS.values():
        if all(getattr(config, name) == value for name, value in properties.items()):
            return config
    raise InputError(
        f"{path}: no known variant has this shape: {properties}; name a variant to see which tensors differ"
    )


def _check_same_network(contents: Contents, stored: DetectorConfig, wanted: DetectorConfig) -> None:
    """Refuse a file for another network; dropout and other settings that only training uses may differ."""
    differences = [
        f"{name} is {getattr(stored.front_end, name)} instead of {getattr(wanted.front_end, name)}"
        for name in _differing(stored.front_end, wanted.front_end)
    ]
    if stored.head != wanted.head:
        differences.append(f"its head is {stored.head} instead of {wanted.head}")
    if differences:
        variant = contents.metadata.get("variant") or _name_variant(stored.front_end)
        raise InputError(f"{contents.file}: is of variant {variant}: {', '.join(differences)}")


def _differing(one: EncoderConfig, other: EncoderConfig) -> list[str]:
    training_only = {"dropout", "attention_dropout", "input_dropout", "layer_drop", "conv_gradient_scale"}
    names = [field.name for field in fields(EncoderConfig) if field.name not in training_only]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _name_variant(config: EncoderConfig) -> str:
    """Name the first variant with this shape."""
    return next((name for name, known in VARIANTS.items() if not _differing(known, config)), "unnamed")
