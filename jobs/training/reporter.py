"""What the training loop reports, on its way to MLflow and to checkpoints; rank 0 writes, if it still may."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.training import checkpoints
from jobs.training.validation_log import ValidationLog
from pipeline import tracking
from pipeline.lease import Fence
from pipeline.storage import Folder

if TYPE_CHECKING:
    from ray.train import Checkpoint

    from pipeline.detector.network import Detector
    from pipeline.detector.training import Progress, State
    from pipeline.detector.validation import Validation

METRICS = "metrics.jsonl"
JUDGED = "validation/"
"""What only a whole checkpoint makes true: MLflow hears of it then, and so never of two values for a step."""

LEARNING = ("loss", "gradient_norm", "learning_rate", "epoch", "skipped_steps")
"""Metrics of what is learnt; all others of a step are of how fast."""


def named(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the loop in three sections: train, speed, and validation with an EER for each corpus."""

    def name(key: str) -> str:
        if key.startswith("validation_"):
            return key.replace("_", "/", 1)
        return f"train/{key}" if key in LEARNING else f"speed/{key}"

    return {name(key): value for key, value in metrics.items()}


class Reporter:
    """Takes the reports of one rank; one checkpoint is on its way at most."""

    def __init__(
        self,
        out: Folder,
        fence: Fence,
        detector: Detector,
        facts: Mapping[str, str],
        tracked: tracking.Run,
        rank: int,
        num_kept: int,
    ) -> None:
        """facts: what the header of saved weights says; num_kept: checkpoints that are."""
        self._out = out
        self._fence = fence
        self._config, self._carried = detector.config, detector.pretraining_tensors
        self._facts = facts
        self._tracked = tracked
        self._rank = rank
        self._num_kept = num_kept
        self._progress: dict[str, Any] = {}
        self._judged: dict[str, float] = {}
        self._found: Validation | None = None
        self._validations = ValidationLog(out, tracked, f"Training of {facts['variant']} {facts['training']}")
        self._is_uploaded = threading.Event()
        self._is_uploaded.set()

    def __call__(self, progress: Progress, metrics: Mapping[str, float], state: State | None) -> None:
        """Log the metrics; hand a checkpoint over to be copied while the training goes on."""
        if self._rank == 0 and self._out.is_local:  # elsewhere metrics are published with a checkpoint
            self._fence.check()
        metrics = named(metrics)
        judged = {name: value for name, value in metrics.items() if name.startswith(JUDGED)}
        self._tracked.write_metrics(metrics, progress.step)
        self._tracked.send_metrics(
            {name: value for name, value in metrics.items() if name not in judged}, progress.step
        )
        if state is None:
            return
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        self._is_uploaded.wait()
        checkpoint = None
        if self._rank == 0:
            if progress.best_step == progress.step:
                self._save_weights(progress, state)
            folder = Path(tempfile.mkdtemp(prefix="bonafide-checkpoint-"))
            checkpoints.save_state(state, folder)
            self._progress, self._judged = asdict(progress), judged
            self._is_uploaded.clear()
            checkpoint = Checkpoint.from_directory(str(folder))
        ray.train.report(
            {"step": progress.step},
            checkpoint=checkpoint,
            checkpoint_dir_name=checkpoints.new_name(progress.step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=self._upload,
        )

    def keep(self, found: Validation) -> None:
        """Keep the scores of a validation until the checkpoint of its step is whole."""
        if self._rank == 0:
            self._is_uploaded.wait()
            self._found = found

    def _upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Commit a checkpoint, the marker last, and delete what it replaces; Ray's own copy has no order."""
        import ray.train
        from ray.train import Checkpoint

        folder = self._out.folder("checkpoints")
        try:
            self._fence.check()
            checkpoints.commit_state(folder, name, Path(checkpoint.path), self._progress)
            checkpoints.prune(folder, self._num_kept)
            checkpoints.prune_weights(self._out, folder)
            self._tell(folder.location(name))
            self._publish_metrics()
        finally:
            self._is_uploaded.set()
        storage = ray.train.get_context().get_storage()
        return Checkpoint(storage.build_checkpoint_path_from_name(name), storage.storage_filesystem)

    def _tell(self, checkpoint: str) -> None:
        """Say what became true with a checkpoint."""
        step = int(self._progress["step"])
        self._tracked.send_metrics(self._judged, step)
        self._tracked.set_tags({"bonafide.checkpoint": checkpoint})
        if self._found is not None:
            self._validations.add(step, self._found.scores_by_corpus, int(self._progress["best_step"]))
            self._found = None

    def finish(self) -> None:
        """Wait for the checkpoint that is on its way."""
        self._is_uploaded.wait()
        if self._rank == 0:
            self._fence.check()
            self._publish_metrics()

    def _publish_metrics(self) -> None:
        file = self._tracked.metrics_file
        if not self._out.is_local and file is not None and file.exists():
            self._out.commit(METRICS, file.read_bytes())

    def _save_weights(self, progress: Progress, state: State) -> None:
        import torch

        from pipeline.detector.checkpoint import save_detector
        from pipeline.detector.network import Detector

        with torch.device(
            "meta"
        ):  # the detector that trains may lie in shares on many ranks; the state is whole
            detector = Detector(self._config)
        detector.load_state_dict(state["detector"], assign=True)
        detector.pretraining_tensors = self._carried
        facts = {**self._facts, "step": str(progress.step), "eer": str(progress.best_eer)}
        self._fence.check()
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "weights.safetensors"
            save_detector(detector, path, facts)
            self._out.commit(checkpoints.weights_name(progress.step), path.read_bytes())
