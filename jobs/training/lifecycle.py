"""How a training starts in its folder, and how it is completed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.checkpoint_source import fetch_checkpoint
from jobs.training import checkpoints, folder
from jobs.training.checks import check_resume
from jobs.training.record import (
    RATE_TAGS,
    TrainingRecord,
    TrainingResult,
    load_record,
    write_record,
    write_result,
)
from jobs.training.resolve import ResolvedTraining, fixed_settings
from pipeline.detector.header import read_header
from pipeline.errors import InputError
from pipeline.storage import Folder, temporary_folder

if TYPE_CHECKING:
    from pipeline.detector.network import Detector


def check_folder(out: Folder) -> None:
    """Check that a new training will not replace the detector of an earlier one, which may be registered.

    Raises:
        InputError: the folder has a detector, but no training.
    """
    if out.exists(folder.DETECTOR):
        raise InputError(
            f"{out.location(folder.DETECTOR)}: the detector of another training, which may be registered; "
            "choose another --out, or move the file away"
        )


def check_stored_weights(out: Folder, record: TrainingRecord, result: TrainingResult | None) -> None:
    """Check that nobody has removed or replaced the weights that a training resumes from, or that it has published.

    Reads only the header of the file; whoever loads the weights compares them with it.

    Raises:
        InputError: the file is missing, incomplete, or has other weights than those on record.
    """
    name, digest = (folder.DETECTOR, result.weights) if result else (folder.INITIAL, record.initial_weights)
    problem = _find_problem(out, name, digest)
    if problem:
        raise InputError(
            f"{out.location(name)}: {problem}; restore the file, or train again with another --out"
        )


def _find_problem(out: Folder, name: str, digest: str) -> str | None:
    try:
        header = read_header(lambda start, end: out.read(name, start, end))
        num_bytes = out.info(name).size
    except FileNotFoundError:
        return f"missing, but {folder.RESULT if name == folder.DETECTOR else folder.RECORD} names its weights"
    except InputError:
        raise  # a kind of ValueError
    except ValueError as error:
        return f"damaged: {error}"
    if num_bytes != header.num_bytes:
        return f"damaged: {num_bytes} bytes instead of {header.num_bytes}"
    stored = header.metadata.get("digest", "unknown")
    if stored != digest:
        return f"was replaced: the weights on record are {digest[:12]}, and these are {stored[:12]}"
    return None


def load_initial(training: ResolvedTraining) -> Detector | None:
    """Load the detector that `--init` names, before anything is started or written; None without `--init`.

    Raises:
        InputError: the checkpoint is missing, damaged or does not fit.
    """
    from pipeline.detector.checkpoint import load_weights

    config = training.config
    if not config.init:
        return None
    checkpoint = fetch_checkpoint(config.init, config.tracking_uri)
    detector = _random_detector(training)
    filled = load_weights(detector, checkpoint.path, accept_front_end=True)
    checkpoint.check(filled.digest)
    print(filled.coverage, flush=True)
    if checkpoint.version is not None:
        print(f"{config.init} is {checkpoint.uri}", flush=True)
    return detector


def _random_detector(training: ResolvedTraining) -> Detector:
    import torch

    from pipeline.detector.network import Detector

    torch.manual_seed(training.config.training.seed)
    return Detector(training.config.detector)


def start_or_resume(training: ResolvedTraining, initial: Detector | None) -> TrainingRecord:
    """Load the training record, or create it; the caller holds the lease of the folder.

    Args:
        training: what the command asks for.
        initial: the detector that `--init` names, if it is loaded already.

    Raises:
        InputError: the folder holds a training with other settings or data.
    """
    record = load_record(training.out)
    if record is None:
        return start(training, initial)
    check_resume(training, record)
    return record


def start(training: ResolvedTraining, initial: Detector | None) -> TrainingRecord:
    """Write the detector before its first step, then the record; see `start_or_resume`."""
    from pipeline.detector.checkpoint import save_detector

    config, out = training.config, training.out
    detector = initial or load_initial(training) or _random_detector(training)
    training_id = uuid.uuid4().hex[:12]
    with temporary_folder() as temporary:
        path = temporary / folder.INITIAL
        metadata = {
            "variant": config.variant,
            "training": training_id,
            "snapshot": training.snapshot_digest,
            "step": "0",
        }
        initial_weights = save_detector(detector, path, metadata)
        out.commit(folder.INITIAL, path.read_bytes())
    record = TrainingRecord(
        id=training_id,
        settings=fixed_settings(training),
        snapshot=training.snapshot.name,
        snapshot_digest=training.snapshot_digest,
        initial_weights=initial_weights,
    )
    write_record(out, record)
    return record


def publish(out: Folder, record: TrainingRecord, run_id: str | None) -> TrainingResult:
    """Publish the best weights of all validations, then the result, which completes the training."""
    from pipeline.detector.checkpoint import load_detector

    last = checkpoints.saved_checkpoints(out.folder(folder.CHECKPOINTS))[-1]
    assert last.best_step, "the last step validates"
    best = folder.weights_name(last.best_step)
    remedy = "restore the file, or train again with another --out"
    if not out.exists(best):
        raise InputError(
            f"{out.location(best)}: missing, but these weights are the best of the training; {remedy}"
        )
    with local_copy(out, best) as path:
        loaded = load_detector(path)
        if not {"training": record.id, "step": str(last.best_step)}.items() <= loaded.metadata.items():
            raise InputError(
                f"{out.location(best)}: was replaced: its header names another training; {remedy}"
            )
        out.commit(folder.DETECTOR, path.read_bytes())
    metadata = loaded.metadata
    rates = {which: float(metadata[tag]) for which, tag in RATE_TAGS.items() if tag in metadata}
    log_odds = metadata.get("training_log_odds")
    result = TrainingResult(
        id=record.id,
        snapshot=record.snapshot,
        snapshot_digest=record.snapshot_digest,
        initial_weights=record.initial_weights,
        weights=loaded.digest,
        best_step=last.best_step,
        best_weights=metadata["weights"],
        selected_by=record.settings["training"]["select_by"],
        error_rates=rates,
        num_steps=last.step,
        run_id=run_id,
        training_log_odds=None if log_odds is None else float(log_odds),
    )
    write_result(out, result)
    for file in list(out.find(folder.WEIGHTS)):
        out.delete(file.name)
    return result


@contextmanager
def local_copy(out: Folder, name: str) -> Iterator[Path]:
    """Provide a file of a folder as a local path."""
    if out.is_local:
        yield Path(out.location(name))
        return
    with temporary_folder() as temporary:
        path = temporary / Path(name).name
        path.write_bytes(out.read(name))
        yield path
