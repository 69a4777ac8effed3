"""Reads checkpoints of every supported format into the released layout.

The content decides the format, not the file name: our own safetensors, released AntiDeepfake detectors (torch or
safetensors), fairseq `.pt` files, and models of transformers. Names that PyTorch changed when the weights were saved
again, such as `module.` in front of each, are changed back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from pipeline.detector.files import find_weights, is_index, missing_shard, parse_index
from pipeline.detector.huggingface import from_transformers
from pipeline.detector.network import PREFIX
from pipeline.detector.tensors import TensorFile, read_tensors, to_float32
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
    file: Path
    """The file with the weights, or the index of its shards."""
    tensors: dict[str, Tensor]
    config: DetectorConfig | None = None
    """None if the file does not state it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    """For the log: which of several weights in the file these are; empty if it has no others."""


def read_checkpoint(path: Path) -> Contents:
    """Read a checkpoint of any supported format, as float32 tensors on the CPU.

    Args:
        path: a file, an index of shards, or a folder that has one of both under its usual name.

    Raises:
        InputError: the file is missing, damaged or of an unknown format.
    """
    file = find_weights(path)
    if _SHARD.search(file.name):
        raise InputError(f"{file}: one of several shards; give their folder, or their index")
    read = _read_shards(file) if is_index(file.name) else read_tensors(file)
    if METADATA_KEY in read.metadata:
        config = _parse_config(read.metadata[METADATA_KEY], file)
        return Contents("bonafide", file, to_float32(read.groups[""]), config, read.metadata)
    front_end, note = _choose_front_end(_find_front_ends(read, file), read, file)
    inner = PREFIX if front_end.layout == "fairseq" else ""
    tensors = {
        inner + name.removeprefix(front_end.outer) if name.startswith(front_end.outer) else name: tensor
        for name, tensor in front_end.tensors.items()
    }
    if front_end.layout == "transformers":
        tensors, encoder = from_transformers(tensors, file)
        return Contents(front_end.layout, file, tensors, DetectorConfig(encoder), note=note)
    return Contents(front_end.layout, file, to_float32(tensors), note=note)


def _read_shards(index: Path) -> TensorFile:
    try:
        files = parse_index(index.read_bytes(), str(index))
    except OSError as error:
        raise InputError(f"{index}: {error.strerror}") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(files.values())):
        path = index.parent / shard
        if not path.exists():
            raise missing_shard(str(path), index.name)
        for group in read_tensors(path).groups.values():
            tensors |= {name: tensor for name, tensor in group.items() if files.get(name, shard) == shard}
    absent = sorted(files.keys() - tensors.keys())
    if absent:
        raise InputError(f"{index}: the files that it names lack {len(absent)} of its tensors: {absent[0]} …")
    return TensorFile({"": tensors}, {})


Layout = Literal["AntiDeepfake", "fairseq", "transformers"]

_LAYOUTS: Mapping[tuple[str, str], Layout] = {
    ("0", PREFIX): "AntiDeepfake",
    ("0", ""): "fairseq",
    ("conv", ""): "transformers",
    ("conv", "wav2vec2."): "transformers",
    ("conv", "hubert."): "transformers",
}
"""From the name of a convolution, and the prefix of the front end, to the layout."""

_FIRST_TENSOR = re.compile(r"(.*?)feature_extractor\.conv_layers\.0\.(0|conv)\.weight")
"""Every front end has this tensor: what precedes its name precedes those of all others."""

_OUTER = re.compile(r"((?:(?:model|detector|network|net)\.)*?)(m_ssl\.model\.|wav2vec2\.|hubert\.|)")
"""Names of attributes in which training programs hold the model, then the prefix of the front end in its layout."""

_WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(?=.)"
)
"""What DistributedDataParallel, compile and others of PyTorch put into names; no layer is called so."""

_WEIGHT_NORM = re.compile(r"\.parametrizations\.weight\.original([01])$")
"""Newer names of the two tensors of weight normalisation."""

_COUNTER = "n_averaged"
"""A tensor in which PyTorch's AveragedModel counts its updates; no part of the model."""

_STANDARD = frozenset({"", "model", "state_dict", "model_state_dict", "module"})
"""Keys under which a torch.save file has the weights that its training program evaluates."""

_SHARD = re.compile(r"-\d+-of-0*(?:[2-9]|[1-9]\d+)\.")
"""In the name of one of several shards."""


@dataclass(frozen=True, slots=True)
class _FrontEnd:
    """One of the front ends in a file, with everything that is stored beside it under the same key."""

    key: str
    """Keys of the dicts around the tensors, see `TensorFile`."""
    prefix: str
    """What precedes the names of its tensors."""
    outer: str
    """The part of `prefix` that does not belong to the layout."""
    layout: Layout | Literal["unknown"]
    tensors: Mapping[str, Tensor]
    """All tensors with this key."""

    @property
    def is_standard(self) -> bool:
        """Whether it is stored where a training program stores the weights that it evaluates."""
        return _STANDARD.issuperset(self.key.split("."))

    @property
    def name(self) -> str:
        """Where it is in the file, for people."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part) or "its first level"


def _find_front_ends(read: TensorFile, file: Path) -> list[_FrontEnd]:
    """Find every front end in a file, in any layout."""
    found = []
    for key, group in read.groups.items():
        if not any("feature_extractor." in name for name in group):
            continue
        tensors = _original_names(group, file)
        for match in filter(None, map(_FIRST_TENSOR.fullmatch, tensors)):
            parts = _OUTER.fullmatch(match[1])
            layout = _LAYOUTS.get((match[2], parts[2])) if parts else None
            found.append(_FrontEnd(key, match[1], parts[1] if parts else "", layout or "unknown", tensors))
    return found


def _original_names(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Undo the renaming of PyTorch's wrappers and parametrizations."""
    original: dict[str, Tensor] = {}
    for stored, tensor in tensors.items():
        name = _WEIGHT_NORM.sub(lambda which: f".weight_{'gv'[int(which[1])]}", _WRAPPERS.sub("", stored))
        if name == _COUNTER:
            continue
        if name in original:
            raise InputError(
                f"{file}: has two tensors for {name}, one of them as {stored}; keep one in the file"
            )
        original[name] = tensor
    return original


def _choose_front_end(found: list[_FrontEnd], read: TensorFile, file: Path) -> tuple[_FrontEnd, str]:
    """Choose the front end that a file is for, and say for the log what else is in it.

    Raises:
        InputError: there is none, there are several equal ones, or its layout is unknown.
    """
    if not found:
        some = ", ".join(sorted(name for group in read.groups.values() for name in group)[:3])
        raise InputError(
            f"{file}: no wav2vec 2.0 or HuBERT weights in a known layout (some of its tensors: {some})"
        )
    candidates = [each for each in found if each.is_standard] if len(found) > 1 else found
    if len(candidates) != 1:
        names = ", ".join(each.name for each in found)
        raise InputError(
            f"{file}: has several sets of weights ({names}); save the one that you mean in a file of its own"
        )
    [chosen] = candidates
    if chosen.layout == "unknown":
        raise InputError(
            f"{file}: its front end is named {chosen.prefix}feature_extractor…, which is not a known layout; "
            f"save it without {chosen.prefix!r}"
        )
    others = ", ".join(each.name for each in found if each is not chosen)
    if others:
        return chosen, f"those of {chosen.name}; {others} left out"
    return chosen, "" if chosen.is_standard else f"those of {chosen.name}"


def config_to_json(config: DetectorConfig) -> str:
    """Serialise a config for the metadata of our own files."""
    return json.dumps({"front_end": asdict(config.front_end), "head": config.head.settings})


def _parse_config(text: str, path: Path) -> DetectorConfig:
    try:
        content = json.loads(text)
        return DetectorConfig(EncoderConfig(**content["front_end"]), HeadConfig(**content.get("head", {})))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata does not describe a detector: {error}") from error
