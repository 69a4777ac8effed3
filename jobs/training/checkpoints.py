"""Training checkpoints in a folder: `step_00000100-1a2b3c4d/` holds `state.pt`, then `committed.json`.

A folder without its `committed.json`, or with a state of another size, was left by a worker that died: nobody
reads it. A name is used once, so files of two attempts never mix.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.training import State

STATE = "state.pt"
MARKER = "committed.json"


@dataclass(frozen=True, slots=True)
class SavedState:
    """A whole checkpoint and what its marker says."""

    name: str
    """Folder, below the folder of checkpoints."""
    step: int
    best_step: int
    best_eer: float | None


def new_name(step: int) -> str:
    """A name for a checkpoint that no other attempt will take."""
    return f"step_{step:08d}-{uuid.uuid4().hex[:8]}"


def save_state(state: State, path: Path) -> None:
    """Write a state to a local folder, from where it is committed."""
    import torch

    torch.save(state, path / STATE)


def commit_state(folder: Folder, name: str, path: Path, facts: Mapping[str, object]) -> None:
    """Copy a locally written state to `name`, then its marker with the facts of its progress."""
    num_bytes = (path / STATE).stat().st_size
    with (path / STATE).open("rb") as source, folder.staged(f"{name}/{STATE}") as target:
        shutil.copyfileobj(source, target, 16 * 2**20)
    marker = {"num_bytes": num_bytes, **{key: facts[key] for key in ("step", "best_step", "best_eer")}}
    folder.commit(f"{name}/{MARKER}", json.dumps(marker).encode())


def saved_states(folder: Folder) -> list[SavedState]:
    """Every whole checkpoint, the newest last."""
    if not folder.exists():
        return []
    sizes = {info.name: info.size for info in folder.find()}
    states = []
    for file in sizes:
        name, _, end = file.rpartition("/")
        if end != MARKER:
            continue
        try:
            marker = json.loads(folder.read(file))
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # pruned meanwhile, or cut short on a file system without atomic renames
        if sizes.get(f"{name}/{STATE}") == marker.pop("num_bytes"):
            states.append(SavedState(name, **marker))
    return sorted(states, key=_age)


def newest_step(folder: Folder) -> int:
    """Steps of the newest whole checkpoint, 0 without one."""
    return max((saved.step for saved in saved_states(folder)), default=0)


def load_state(folder: Folder, saved: SavedState) -> State:
    """Read a state to the CPU; a file that would run code is refused."""
    import torch

    with folder.open(f"{saved.name}/{STATE}") as file:
        return cast("dict[str, Any]", torch.load(file, map_location="cpu", weights_only=True))


def prune(folder: Folder, num_kept: int) -> list[str]:
    """Delete all but the newest whole checkpoints, and what dead workers left; only while nobody writes."""
    kept = {saved.name for saved in saved_states(folder)[-num_kept:]}
    files = [info.name for info in folder.find()] if folder.exists() else []
    deleted = {file.partition("/")[0] for file in files if file.startswith("step_") and "/" in file} - kept
    # A marker goes before its state, so that a prune cut short leaves nothing that looks whole.
    for file in sorted(files, key=_markers_first):
        if file.partition("/")[0] in deleted:
            folder.delete(file)
    for name in deleted if folder.is_local else ():
        with contextlib.suppress(
            OSError
        ):  # a rank that outlives its driver for a moment may still write there
            Path(folder.location(name)).rmdir()
    return sorted(deleted)


def weights_name(step: int) -> str:
    """Where, beside the folder of checkpoints, the weights of the best step wait to be published."""
    return f"weights/step_{step:08d}.safetensors"


def prune_weights(out: Folder, folder: Folder) -> None:
    """Delete weights that are the best of no checkpoint that is left; only while nobody writes."""
    kept = {weights_name(saved.best_step) for saved in saved_states(folder)}
    for info in list(out.find("weights")) if out.exists("weights") else []:
        if info.name not in kept:
            out.delete(info.name)


def _age(saved: SavedState) -> tuple[int, str]:
    return saved.step, saved.name


def _markers_first(file: str) -> bool:
    return not file.endswith(f"/{MARKER}")
