"""Regions in NumPy files: the labels of segments of equal duration, as PartialSpoof publishes them.

Such a file is a pickle, which can execute anything. Here it can make lists, dictionaries, text and numbers, and nothing
else: arrays are read by `_Array`, because a forged array can make NumPy follow pointers of the file.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.data.corpora.region_files import RegionFiles
from pipeline.data.corpora.regions.row import RegionRow
from pipeline.errors import InputError
from pipeline.storage import Folder


def read_segments(
    rules: RegionFiles, root: Folder, name: str, file_fields: Mapping[str, str | None]
) -> Iterator[RegionRow]:
    """Yield the regions in a file of segment labels: runs of segments of one utterance that have equal labels.

    Args:
        rules: duration of the segments.
        root: folder of the corpus.
        name: path of the file below the root.
        file_fields: fields that the path states.

    Raises:
        InputError: the file is no such dictionary, or its pickle names anything that is no data.
    """
    assert rules.segment_s is not None
    location = root.location(name)
    for utterance, content in load_labels(root.read(name), location).items():
        labels = content.values if isinstance(content, _Array) else content
        if not isinstance(utterance, str) or not isinstance(labels, list):
            kind = type(labels).__name__
            raise InputError(f"{location}: {utterance!r} has {kind}; expected a list of labels for each name")
        fields = {**file_fields, "utterance": utterance}
        key = tuple(fields[field] or "" for field in rules.key)
        num_before = 0
        for label, run in itertools.groupby(labels):
            if not isinstance(label, str | int):
                raise InputError(
                    f"{location}: {utterance} has the label {label!r}; expected text or a number"
                )
            num_segments = num_before + sum(1 for _ in run)
            yield RegionRow(key, num_before * rules.segment_s, num_segments * rules.segment_s, str(label), 0)
            num_before = num_segments


def load_labels(data: bytes, location: str) -> dict[Any, Any]:
    """Load the dictionary of a file that `numpy.save` wrote.

    Raises:
        InputError: the file is none, or its pickle names anything that is no data.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if (shape, dtype) != ((), np.dtype(object)):
            raise pickle.UnpicklingError(f"it is an array of {dtype} with the shape {shape}")
        content = _DataUnpickler(file).load()
    except Exception as error:  # a damaged pickle can raise any exception
        reason = " ".join(str(error).split())
        raise InputError(
            f"{location}: not a dictionary of labels, saved with numpy.save: {reason}"
        ) from error
    if isinstance(content, _Array) and len(content.values) == 1:
        content = content.values[0]
    if not isinstance(content, dict):
        raise InputError(f"{location}: no dictionary of lists of labels, saved with numpy.save")
    return content


class _Dtype:
    """Reads numbers or text from the bytes of an array."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def read(self, data: bytes) -> list[Any]:
        if not re.fullmatch(r"[USbiu]\d+", self.code) or self.order not in "<>=|":
            raise pickle.UnpicklingError(f"it has an array of {self.order}{self.code}")
        values: list[Any] = np.frombuffer(data, np.dtype(f"{self.order}{self.code}")).tolist()
        return values


class _Array:
    """The values of an array, without its shape."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, content = state
        is_list = isinstance(content, list) and dtype.code.startswith("O")
        self.values = content if is_list else dtype.read(content)
        if len(self.values) != math.prod(shape):
            raise pickle.UnpicklingError(
                f"it has an array of {len(self.values)} values with the shape {shape}"
            )


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> object:
    (value,) = dtype.read(data)
    return value


def _encode(text: str, encoding: str) -> bytes:
    """What protocol 2 of pickle calls to restore bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


_DATA: Mapping[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    # NumPy 1 writes the names of `core`, NumPy 2 those of `_core`.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
"""All that a pickle may name, and what it gets."""


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _DATA:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no data")
        return _DATA[module, name]
