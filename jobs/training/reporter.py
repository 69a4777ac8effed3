"""Sends the reports of the training loop to MLflow and to checkpoints; only rank 0 writes, while the lease holds."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.training import checkpoints
from jobs.training.folder import CHECKPOINTS, METRICS, new_checkpoint_name, weights_name
from jobs.training.record import RATE_TAGS
from jobs.training.validation_log import ValidationLog
from pipeline import tracking
from pipeline.detector.config import LoraConfig
from pipeline.evaluation.validation_page import ValidationScores
from pipeline.lease import Fence
from pipeline.metrics import Selection
from pipeline.storage import Folder, local_errors, temporary_errors, temporary_folder, temporary_root

if TYPE_CHECKING:
    from ray.train import Checkpoint

    from pipeline.detector.network import Detector
    from pipeline.detector.state import TrainingProgress, TrainingState
    from pipeline.detector.validation import Validation

VALIDATION_PREFIX = "validation/"
"""Prefix of metrics that are sent to MLflow only after their checkpoint is committed, so that a repeated step is never
logged twice."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """Results that are logged once a checkpoint is committed."""

    progress: TrainingProgress
    validation_metrics: Mapping[str, float]
    validation: Validation | None
    metrics_file: bytes | None
    """Content of the metrics file at this step, for a remote folder: a training that fails during the upload deletes
    the file itself."""


def delete_leftovers(training: str) -> None:
    """Delete checkpoints and weights of a training that workers left on this machine when they died during an upload.

    Call it only before the first step of an attempt, while none are being uploaded.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_temporary_prefix(training)}*"):
        shutil.rmtree(folder, ignore_errors=True)  # another rank on this machine deletes them too


def _temporary_prefix(training: str) -> str:
    return f"bonafide-checkpoint-{training}-"


class Reporter:
    """Receives the reports of one rank; at most one checkpoint is uploading."""

    def __init__(
        self,
        out: Folder,
        fence: Fence,
        detector: Detector,
        metadata: Mapping[str, str],
        tracked: tracking.Run,
        rank: int,
        num_kept: int,
        select_by: Selection,
        lora: LoraConfig = LoraConfig(),
    ) -> None:
        """Prepare for a training.

        Args:
            out: folder of the training.
            fence: tells whether the driver still holds the lease.
            detector: the untrained detector.
            metadata: metadata of the saved weights; has at least `variant` and `training`.
            tracked: MLflow run.
            rank: rank of this worker.
            num_kept: how many checkpoints to keep.
            select_by: the error rate that decides which weights are the best.
            lora: adapters of the detector in training.
        """
        self._out = out
        self._fence = fence
        self._detector_config, self._pretraining_tensors = detector.config, detector.pretraining_tensors
        self._metadata = metadata
        self._tracked = tracked
        self._rank = rank
        self._num_kept = num_kept
        self._lora = lora
        title = f"Training of {metadata['variant']} {metadata['training']}"
        self._validation_log = ValidationLog(out, tracked, title, select_by)
        self._select_by = select_by
        self._is_uploaded = threading.Event()
        self._is_uploaded.set()

    def __call__(
        self,
        progress: TrainingProgress,
        metrics: Mapping[str, float],
        state: TrainingState | None,
        validation: Validation | None,
    ) -> None:
        """Log the metrics, and start the upload of a checkpoint while the training continues."""
        if self._rank == 0 and self._out.is_local:  # elsewhere metrics are written with a checkpoint
            self._fence.check()
        with local_errors(str(self._tracked.metrics_file)):
            self._tracked.write_metrics(metrics, progress.step)
        validation_metrics = {
            name: value for name, value in metrics.items() if name.startswith(VALIDATION_PREFIX)
        }
        self._tracked.send_metrics(
            {name: value for name, value in metrics.items() if name not in validation_metrics}, progress.step
        )
        if state is not None:
            self._is_uploaded.wait()
            pending = _Pending(progress, validation_metrics, validation, self._read_metrics())
            self._report_checkpoint(pending, state)

    def finish(self) -> None:
        """Wait until the last checkpoint is uploaded."""
        self._is_uploaded.wait()
        if self._rank == 0:
            self._fence.check()
            self._publish_metrics(self._read_metrics())

    def _report_checkpoint(self, pending: _Pending, state: TrainingState) -> None:
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        progress, checkpoint = pending.progress, None
        if self._rank == 0:
            if progress.best_step == progress.step:
                assert pending.validation is not None
                self._save_weights(progress.step, pending.validation, state)
            with temporary_errors():
                prefix = _temporary_prefix(self._metadata["training"])
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=temporary_root()))
            checkpoints.save_state(state, folder)
            self._is_uploaded.clear()
            checkpoint = Checkpoint.from_directory(str(folder))
        ray.train.report(
            {"step": progress.step},
            checkpoint=checkpoint,
            checkpoint_dir_name=new_checkpoint_name(progress.step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=partial(self._upload, pending),
        )

    def _upload(self, pending: _Pending, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Commit a checkpoint and prune older ones. Ray's own upload copies files in any order."""
        import ray.train
        from ray.train import Checkpoint

        folder = self._out.folder(CHECKPOINTS)
        try:
            self._fence.check()
            # Before the commit: a training that resumes from this checkpoint repeats neither steps nor validation.
            self._publish_metrics(pending.metrics_file)
            if pending.validation is not None:
                scores, error_rates = pending.validation.scores, pending.validation.error_rates
                self._validation_log.write(
                    ValidationScores(
                        pending.progress.step, scores, pending.validation.weights, error_rates.frames
                    )
                )
            checkpoints.commit_state(folder, name, Path(checkpoint.path), pending.progress)
            checkpoints.prune(folder, self._num_kept)
            checkpoints.prune_weights(self._out, folder)
            self._log_committed(pending, folder.location(name))
        finally:
            self._is_uploaded.set()
        storage = ray.train.get_context().get_storage()
        return Checkpoint(storage.build_checkpoint_path_from_name(name), storage.storage_filesystem)

    def _log_committed(self, pending: _Pending, checkpoint: str) -> None:
        """Log the results that had to wait for the checkpoint."""
        step = pending.progress.step
        self._tracked.send_metrics(pending.validation_metrics, step)
        self._tracked.set_tags({"bonafide.checkpoint": checkpoint})
        if pending.validation is not None:
            self._validation_log.draw(step, pending.progress.best_step)

    def _read_metrics(self) -> bytes | None:
        """The content of the metrics file for a remote folder; None for a local one, which already has it."""
        file = self._tracked.metrics_file
        if self._out.is_local or file is None or not file.exists():
            return None
        return file.read_bytes()

    def _publish_metrics(self, content: bytes | None) -> None:
        """Copy the content of the metrics file to a remote folder."""
        if content is not None:
            self._out.commit(METRICS, content)

    def _save_weights(self, step: int, validation: Validation, state: TrainingState) -> None:
        """Save the weights, or their average, whichever the validation measured."""
        import torch

        from pipeline.detector.checkpoint import save_detector
        from pipeline.detector.lora import adapt
        from pipeline.detector.network import Detector

        # The detector in training may be sharded over many ranks; the state holds its full weights.
        with torch.device("meta"):
            detector = Detector(self._detector_config)
        adapt(detector, self._lora, seed=0)
        average = state["average"] if validation.weights == "ema" else {}
        detector.load_state_dict(state["detector"] | average, assign=True)
        detector.pretraining_tensors = self._pretraining_tensors
        rates = {RATE_TAGS[which]: str(rate) for which, rate in validation.error_rates.by_selection.items()}
        described = {"step": str(step), "weights": validation.weights, "selected_by": self._select_by}
        metadata = {**self._metadata, **described, **rates}
        self._fence.check()
        with temporary_folder(_temporary_prefix(self._metadata["training"])) as folder:
            path = folder / "weights.safetensors"
            save_detector(detector, path, metadata)
            self._out.commit(weights_name(step), path.read_bytes())
