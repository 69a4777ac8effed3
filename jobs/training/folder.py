"""The folder of a training (RUN), and the only file that spells the names in it.

RUN/
  config.toml                           settings of the most recent command
  training.json                         what the training fixed when it started, see `TrainingRecord`
  initial.safetensors                   the detector before the first step
  checkpoints/step_00000100-1a2b3c4d/
    state.pt                            everything a resumed training needs
    committed.json                      written last: without it the checkpoint does not count
  checkpoints/checkpoint_manager_snapshot.json
                                        Ray Train's own list, deleted before each attempt
  weights/step_00000100.safetensors     weights of the best step so far, or their average, until they are published
  metrics.jsonl                         every metric, one report a line
  validation/step_00001000.parquet      score of every validation utterance at a step
  validation.html                       all validations on one page
  detector.safetensors                  the best weights of all validations
  result.json                           written last: the training is complete, see `TrainingResult`
  lease/                                which process trains here, see `pipeline.lease`
"""

from __future__ import annotations

import uuid
from pathlib import PurePosixPath

CONFIG = "config.toml"
RECORD = "training.json"
RESULT = "result.json"
INITIAL = "initial.safetensors"
DETECTOR = "detector.safetensors"
METRICS = "metrics.jsonl"
VALIDATION_PAGE = "validation.html"

CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"
VALIDATIONS = "validation"

# Inside of CHECKPOINTS.
STATE = "state.pt"
COMMITTED = "committed.json"
RAY_CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"

_STEP = "step_"


def new_checkpoint_name(step: int) -> str:
    """Name the folder of a checkpoint. A name is used once, so files of two attempts never mix."""
    return f"{_STEP}{step:08d}-{uuid.uuid4().hex[:8]}"


def checkpoint_of(file: str) -> str | None:
    """The checkpoint to which a file below CHECKPOINTS belongs; None if it belongs to none."""
    name, slash, _ = file.partition("/")
    return name if slash and name.startswith(_STEP) else None


def weights_name(step: int) -> str:
    """Name the weights of a step."""
    return f"{WEIGHTS}/{_STEP}{step:08d}.safetensors"


def validation_name(step: int) -> str:
    """Name the table of scores of a validation."""
    return f"{VALIDATIONS}/{_STEP}{step:08d}.parquet"


def validation_step(file: str) -> int | None:
    """The step of a table of scores, by its name; None for another file, such as one that a killed worker left."""
    step = PurePosixPath(file).stem.removeprefix(_STEP)
    return int(step) if step.isdecimal() and file == validation_name(int(step)) else None
