"""Which calibration turns the scores of each window policy into log-likelihood ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jobs.checkpoint_source import Checkpoint
from jobs.scoring.config import ScoreConfig
from pipeline.errors import InputError
from pipeline.evaluation.calibration import (
    METADATA_KEY,
    TAG,
    Calibration,
    key_of,
    load_calibration,
    parse_calibrations,
)

if TYPE_CHECKING:
    from pipeline.detector.checkpoint import Loaded


def read_files(config: ScoreConfig) -> dict[str, Calibration]:
    """Read the files of `--calibration`: location → calibration.

    Raises:
        InputError: a file does not exist or is no calibration, or two are for the same window.
    """
    files: dict[str, Calibration] = {}
    for location in config.calibration:
        calibration = load_calibration(location)
        for other, known in files.items():
            if known.policy == calibration.policy:
                raise InputError(f"{other} and {location} are both for {known.policy}; give one of them")
        files[location] = calibration
    return files


def choose_calibrations(
    config: ScoreConfig, files: Mapping[str, Calibration], checkpoint: Checkpoint, loaded: Loaded
) -> dict[str, Calibration]:
    """Choose the calibration of each window policy, and print which; a policy without one is left out.

    A file comes first, then the tag of the registered version, then the metadata of the checkpoint. Of those stored
    with the detector, only one for exactly these weights, policy and precision is taken, and none for the utterances
    of `--use validation`, on which they are fitted.

    Args:
        config: the window policies and the precision.
        files: see `read_files`.
        checkpoint: the detector.
        loaded: the detector.

    Raises:
        InputError: a file is for other weights, or another window or precision; or what is stored with the detector
            are no calibrations.
    """
    chosen: dict[str, Calibration] = {}
    for location, calibration in files.items():
        policy = calibration.policy if calibration.policy in config.window else config.window[0]
        calibration.check(
            {"weights_digest": loaded.digest, "policy": policy, "precision": config.precision}, location
        )
        chosen[policy] = calibration
        print(f"llr of {calibration.key}: {location}", flush=True)
    if config.use == "validation":
        return chosen
    stored = list(_stored(checkpoint, loaded))
    for policy in config.window:
        key = key_of(policy, config.precision)
        for place, calibrations in stored:
            found = calibrations.get(key)
            if policy not in chosen and found is not None and found.weights_digest == loaded.digest:
                chosen[policy] = found
                print(f"llr of {key}: {place}", flush=True)
        if stored and policy not in chosen:
            known = ", ".join(sorted({each.key for _, others in stored for each in others.values()} - {key}))
            which = f"for {known} only" if known else "for other weights only"
            print(
                f"no llr of {key}: the detector has calibrations {which}; fit one with `bonafide calibrate`",
                flush=True,
            )
    return chosen


def _stored(checkpoint: Checkpoint, loaded: Loaded) -> Iterator[tuple[str, dict[str, Calibration]]]:
    """The places with calibrations of a detector, the first one to be asked first."""
    if checkpoint.version is not None and TAG in checkpoint.version.tags:
        place = f"tag {TAG} of {checkpoint.version.uri}"
        yield place, parse_calibrations(checkpoint.version.tags[TAG], place)
    if METADATA_KEY in loaded.metadata:
        place = f"metadata of {checkpoint.path}"
        yield place, parse_calibrations(loaded.metadata[METADATA_KEY], place)
