"""Training checkpoints: written in two steps, so that one cut short is never read.

A checkpoint without its `committed.json`, or with a state of another size, was left by a worker that died; nothing
reads it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.training.folder import COMMITTED, STATE, WEIGHTS, checkpoint_of, weights_name
from pipeline.storage import Folder, temporary_errors

if TYPE_CHECKING:
    from pipeline.detector.state import TrainingProgress, TrainingState

COPY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A complete checkpoint, as its `committed.json` describes it."""

    name: str
    """Name of its folder in CHECKPOINTS."""
    step: int
    best_step: int


def save_state(state: TrainingState, path: Path) -> None:
    """Write a state to a local folder for temporary files, from which it is committed.

    Raises:
        InputError: the disk of that folder is full.
    """
    import torch

    with temporary_errors(), (path / STATE).open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch completes its archive even if the file cannot be written, and raises the error of that.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def commit_state(folder: Folder, name: str, path: Path, progress: TrainingProgress) -> None:
    """Copy a locally written state to checkpoint `name`, then commit it."""
    num_bytes = (path / STATE).stat().st_size
    with (path / STATE).open("rb") as source, folder.staged(f"{name}/{STATE}") as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
    committed = {
        "num_bytes": num_bytes,
        "step": progress.step,
        "best_step": progress.best_step,
    }
    folder.commit(f"{name}/{COMMITTED}", json.dumps(committed).encode())


def saved_checkpoints(folder: Folder) -> list[SavedCheckpoint]:
    """List every complete checkpoint, the newest last."""
    if not folder.exists():
        return []
    sizes = {info.name: info.size for info in folder.find()}
    saved = []
    for file in sizes:
        name, _, base = file.rpartition("/")
        if base != COMMITTED:
            continue
        try:
            committed = json.loads(folder.read(file))
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # pruned since it was listed, or cut short on a file system without atomic renames
        if sizes.get(f"{name}/{STATE}") == committed.pop("num_bytes"):
            saved.append(SavedCheckpoint(name, **committed))
    return sorted(saved, key=_age)


def newest_step(folder: Folder) -> int:
    """Return the step of the newest complete checkpoint; 0 without one."""
    return max((saved.step for saved in saved_checkpoints(folder)), default=0)


def load_state(folder: Folder, saved: SavedCheckpoint) -> TrainingState:
    """Load a state to the CPU; a file that would run code is refused."""
    import torch

    with folder.open(f"{saved.name}/{STATE}") as file:
        return cast("dict[str, Any]", torch.load(file, map_location="cpu", weights_only=True))


def load_newest_state(folder: Folder) -> TrainingState | None:
    """Load the state of the newest complete checkpoint; None without one."""
    saved = saved_checkpoints(folder)
    return load_state(folder, saved[-1]) if saved else None


def prune(folder: Folder, num_kept: int) -> list[str]:
    """Delete incomplete checkpoints, and all but the newest complete ones; returns their names.

    Call it only while no checkpoint is being written.
    """
    kept = {saved.name for saved in saved_checkpoints(folder)[-num_kept:]}
    files = [info.name for info in folder.find()] if folder.exists() else []
    deleted = {name for file in files if (name := checkpoint_of(file)) is not None} - kept
    # `committed.json` is deleted before its state, so that an interrupted prune leaves nothing that looks complete.
    for file in sorted(files, key=_committed_first):
        if checkpoint_of(file) in deleted:
            folder.delete(file)
    for name in deleted if folder.is_local else ():
        # A worker that outlives its driver for a moment may still write into the folder.
        with contextlib.suppress(OSError):
            Path(folder.location(name)).rmdir()
    return sorted(deleted)


def prune_weights(out: Folder, folder: Folder) -> None:
    """Delete weights that no remaining checkpoint names as its best.

    Call it only while no checkpoint is being written.
    """
    kept = {weights_name(saved.best_step) for saved in saved_checkpoints(folder)}
    for info in list(out.find(WEIGHTS)) if out.exists(WEIGHTS) else []:
        if info.name not in kept:
            out.delete(info.name)


def _age(saved: SavedCheckpoint) -> tuple[int, str]:
    return saved.step, saved.name


def _committed_first(file: str) -> bool:
    return not file.endswith(f"/{COMMITTED}")
