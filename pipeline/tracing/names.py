"""Find the utterances that a protocol or a list of trials names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Parts: TypeAlias = tuple[str, ...]
"""The components of a path."""

MISSING = -1
"""No utterance has the name."""

AMBIGUOUS = -2
"""Several utterances have the name."""


class Names:
    """The names of some utterances: uids, paths and their ends, ids and file names without their suffix.

    Args:
        rows: with the columns `key`, `id` and `path`.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._keys: list[str] = rows["key"].to_pylist()
        self._ids: list[str | None] = rows["id"].to_pylist()
        self._paths = [
            _parts(path or key) for path, key in zip(rows["path"].to_pylist(), self._keys, strict=True)
        ]

    def find(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Find an utterance for each name: [num_names] its position, MISSING or AMBIGUOUS.

        A path may begin elsewhere than that of the utterance: one of both must be the end of the other. What names an
        utterance more exactly is tried first.
        """
        found = np.full(len(names), MISSING, np.int64)
        for known, wanted in self._kinds(names):
            missing = np.flatnonzero(found == MISSING).tolist()
            if not missing:
                break
            positions = _index(known)
            found[missing] = [
                MISSING if wanted[at] is None else positions.get(wanted[at], MISSING) for at in missing
            ]
        return found

    def _kinds(self, names: Sequence[str]) -> Iterator[tuple[Sequence[object], Sequence[object]]]:
        """What utterances are called, and what is looked for, from the most exact to the least."""
        paths = [_parts(name) for name in names]
        yield self._keys, names
        yield self._ids, names
        yield self._paths, paths
        for depth in sorted({len(parts) for parts in (*paths, *self._paths)}, reverse=True):
            yield _ends(self._paths, depth), _of_depth(paths, depth)
            yield _of_depth(self._paths, depth), _ends(paths, depth)
        yield [_stem(parts) for parts in self._paths], [_stem(parts) for parts in paths]

    def below(self, folder: str) -> NDArray[np.int64]:
        """Find all utterances whose path has this folder, which may begin elsewhere: their positions, ascending."""
        wanted = _parts(folder)
        size = len(wanted)
        return np.array(
            [
                at
                for at, parts in enumerate(self._paths)
                if any(parts[start : start + size] == wanted for start in range(len(parts) - size))
            ],
            np.int64,
        )


def _parts(path: str) -> Parts:
    return PurePosixPath(path.replace("\\", "/")).parts


def _ends(paths: Sequence[Parts], depth: int) -> list[Parts | None]:
    """The last components of each path; None for one that has fewer."""
    return [parts[-depth:] if len(parts) >= depth else None for parts in paths]


def _of_depth(paths: Sequence[Parts], depth: int) -> list[Parts | None]:
    """The paths that have so many components; None in place of the others."""
    return [parts if len(parts) == depth else None for parts in paths]


def _stem(parts: Parts) -> str:
    return PurePosixPath(parts[-1]).stem if parts else ""


def _index(names: Iterable[object]) -> dict[object, int]:
    """The position of each name that is not None; AMBIGUOUS if several have it."""
    positions: dict[object, int] = {}
    for at, name in enumerate(names):
        if name is not None:
            positions[name] = AMBIGUOUS if name in positions else at
    return positions
