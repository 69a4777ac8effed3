"""Utterances that do not fit into memory, and workers that die."""

from __future__ import annotations

import numpy as np
import soundfile
import torch

from pipeline.detector.checkpoint import save_detector
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from tests.jobs.situations.situation import Place, Situation


def long_and_short_calls(place: Place) -> None:
    """Two recordings and an untrained detector."""
    (place.here / "calls").mkdir()
    for name, seconds in (("hour", 20), ("short", 1)):
        noise = 0.1 * np.random.default_rng(0).standard_normal(seconds * 16_000)
        soundfile.write(place.here / "calls" / f"{name}.wav", noise, 16_000)
    torch.manual_seed(0)
    save_detector(Detector(DetectorConfig(VARIANTS["tiny"])), place.here / "detector.safetensors", {})


SITUATIONS = [
    Situation(
        what="a recording that does not fit into memory in one piece",
        command="score --audio calls --checkpoint detector.safetensors --out scores --memory-gib 0.01",
        line="1 of 2 have no score: 1 too_long_for_memory; {here}/scores/rejects.parquet lists them",
        status=1,
        leaves=("scores/*",),
        remedy="The other recordings have their scores. Score all of them by windows, `--window window:10:mean`, into "
        "another folder; or use a machine with more memory",
        prepare=long_and_short_calls,
    ),
    Situation(
        what="a detector that leaves no memory for audio",
        command="score --audio calls --checkpoint detector.safetensors --out scores --memory-gib 0.0001",
        line="a scorer has 0.00 GiB beside its detector of … GiB, too little for 0.1 s of audio; … GiB are free; "
        "use fewer --num-workers, or a machine with more memory",
        leaves=("scores/*",),
        prepare=long_and_short_calls,
    ),
    Situation(
        what="a limit of memory that is no limit",
        command="score --audio calls --checkpoint detector.safetensors --out scores --memory-gib -1",
        line="--memory-gib: expected a number from 0 to 1,000,000, got '-1' (…)",
    ),
    Situation(
        what="a negative length to validate with",
        command="train --store store --out run --validation-crop-s -1",
        line="--validation-crop-s: expected a number from 0 to 1,000,000,000, got '-1' (…)",
    ),
]
