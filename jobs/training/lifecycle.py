"""How a training starts in its folder, and how it is completed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.training import checkpoints, folder
from jobs.training.checks import check_resume
from jobs.training.record import TrainingRecord, TrainingResult, load_record, write_record, write_result
from jobs.training.resolve import ResolvedTraining, fixed_settings
from pipeline.storage import Folder, temporary_folder


def start_or_resume(training: ResolvedTraining) -> TrainingRecord:
    """Load the training record, or create it; the caller holds the lease of the folder.

    Raises:
        InputError: the folder holds a training with other settings or data.
    """
    record = load_record(training.out)
    if record is None:
        return start(training)
    check_resume(training, record)
    return record


def start(training: ResolvedTraining) -> TrainingRecord:
    """Write the untrained detector, then the record.

    Raises:
        InputError: the checkpoint to start from is missing, damaged or does not fit.
    """
    import torch

    from pipeline.detector.checkpoint import load_weights, save_detector
    from pipeline.detector.network import Detector

    config, out = training.config, training.out
    torch.manual_seed(config.training.seed)
    detector = Detector(config.detector)
    if config.init:
        print(load_weights(detector, Path(config.init), accept_front_end=True), flush=True)
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
    """Publish the weights with the best validation EER, then the result, which completes the training."""
    from pipeline.detector.checkpoint import load_detector

    last = checkpoints.saved_checkpoints(out.folder(folder.CHECKPOINTS))[-1]
    assert last.best_eer is not None, "the last step validates"
    out.commit(folder.DETECTOR, out.read(folder.weights_name(last.best_step)))
    with local_copy(out, folder.DETECTOR) as path:
        weights = load_detector(path).digest
    result = TrainingResult(
        id=record.id,
        snapshot=record.snapshot,
        snapshot_digest=record.snapshot_digest,
        initial_weights=record.initial_weights,
        weights=weights,
        best_step=last.best_step,
        best_eer=last.best_eer,
        num_steps=last.step,
        run_id=run_id,
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
