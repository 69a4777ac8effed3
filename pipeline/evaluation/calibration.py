"""Calibration of a detector: what turns its scores into log-likelihood ratios, and what it was fitted on.

A calibration is valid for one detector under one window policy and precision. It is a JSON file, and is kept in the
metadata of the detector and the tags of its registered version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError
from pipeline.evaluation.scores import PROTOCOL, ScoreSet
from pipeline.metrics.calibration import AffineMap, affine_calibration, threshold_for
from pipeline.storage import Folder

IDENTITY = ("weights_digest", "policy", "precision")
"""Entries of a description that scores and their calibration must share."""

METADATA_KEY = "calibrations"
"""Entry in the header of a detector's file: calibrations by their key, as JSON."""
TAG = "calibration"
"""Tag of a registered detector with the same JSON."""


def key_of(policy: str, precision: str) -> str:
    """The name of a calibration among those of a detector."""
    return f"{policy} {precision}"


@dataclass(frozen=True)
class ChosenThreshold:
    """The log-likelihood ratio from which an utterance counts as bona fide, and how it was chosen."""

    llr: float
    false_alarm: float | None
    """The wanted false alarm rate; None if the threshold was given as a number."""
    is_guaranteed: bool
    """Whether new utterances stay below that rate with 95 % confidence, if they are like those of the calibration."""


@dataclass(frozen=True)
class Calibration:
    """An affine map of scores to natural-log likelihood ratios, and what it rests on."""

    scale: float
    offset: float
    prior: float
    """Prior of bona fide at which the cost of the ratios was lowest."""
    weights_digest: str
    policy: str
    precision: str
    system: str
    snapshot: str
    corpora: tuple[str, ...]
    scores_digest: str
    """Digest of the scores and labels that it was fitted on."""
    num_bonafide: int
    num_spoof: int
    threshold: ChosenThreshold | None = None

    def llr(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Map scores of any shape."""
        return AffineMap(self.scale, self.offset).apply(scores)

    @property
    def score_threshold(self) -> float | None:
        """The score that has the chosen ratio; None if no threshold was chosen."""
        return None if self.threshold is None else (self.threshold.llr - self.offset) / self.scale

    def is_for(self, identity: Mapping[str, Any]) -> bool:
        """Whether scores with this description are of the detector, window and precision of the calibration."""
        return all(identity.get(name) == getattr(self, name) for name in IDENTITY)

    def check(self, identity: Mapping[str, Any], where: str) -> None:
        """Check that scores are of the detector, window and precision of the calibration.

        Args:
            identity: the description of the scores.
            where: their name, for the message.

        Raises:
            InputError: they are not.
        """
        for name in IDENTITY:
            if identity.get(name) != getattr(self, name):
                raise InputError(
                    f"{where}: the calibration is for {PROTOCOL.get(name, 'the weights')} {getattr(self, name)}, and "
                    f"these are scores with {identity.get(name)}; fit one with `bonafide calibrate` for them"
                )

    @property
    def key(self) -> str:
        """Its name among the calibrations of its detector."""
        return key_of(self.policy, self.precision)

    def to_record(self) -> dict[str, Any]:
        """The JSON object of the calibration, which `from_record` reads."""
        return {**asdict(self), "corpora": list(self.corpora)}

    def to_json(self) -> str:
        """Write the calibration as JSON."""
        return json.dumps(self.to_record(), indent=1, sort_keys=True)


def parse_calibration(text: str | bytes, where: str) -> Calibration:
    """Read a calibration that `to_json` wrote.

    Args:
        text: the JSON.
        where: its file, for the message.

    Raises:
        InputError: it is none.
    """
    try:
        return from_record(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not a calibration by `bonafide calibrate` ({error!r})") from error


def load_calibration(location: str) -> Calibration:
    """Load a calibration from a local or an S3 file.

    Raises:
        InputError: there is none.
    """
    folder, name = Folder.of_file(location)
    try:
        return parse_calibration(folder.read(name), location)
    except FileNotFoundError as error:
        raise InputError(
            f"{location}: no such file; write it with `bonafide calibrate --out {location}`"
        ) from error


def stored_calibration(identity: Mapping[str, Any]) -> Calibration | None:
    """The calibration that scores with this description were made with; None if there is none."""
    record = identity.get("calibration")
    return None if record is None else from_record(record)


def with_calibration(stored: str | None, calibration: Calibration, where: str) -> str:
    """Add a calibration to those of a detector; one with the same key is replaced.

    Args:
        stored: the calibrations of the detector as JSON; None if it has none.
        calibration: the one to add.
        where: their place, for the message.

    Raises:
        InputError: `stored` are no calibrations.
    """
    calibrations = parse_calibrations(stored, where) | {calibration.key: calibration}
    records = {key: each.to_record() for key, each in sorted(calibrations.items())}
    return json.dumps(records, separators=(",", ":"), sort_keys=True)


def parse_calibrations(stored: str | None, where: str) -> dict[str, Calibration]:
    """Read the calibrations of a detector, by key.

    Args:
        stored: JSON that `with_calibration` wrote; None for none.
        where: their place, for the message.

    Raises:
        InputError: they are none.
    """
    try:
        return {key: from_record(record) for key, record in json.loads(stored or "{}").items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: not calibrations by `bonafide calibrate` ({error!r})") from error


def from_record(record: Mapping[str, Any]) -> Calibration:
    """Build a calibration from its JSON object; the reverse of `to_record`."""
    threshold = record["threshold"]
    calibration = Calibration(
        **{
            **record,
            "corpora": tuple(record["corpora"]),
            "threshold": None if threshold is None else ChosenThreshold(**threshold),
        }
    )
    if not (np.isfinite([calibration.scale, calibration.offset]).all() and calibration.scale > 0):
        raise ValueError(f"scale {calibration.scale}, offset {calibration.offset}")
    return calibration


def fit(
    scores: ScoreSet, prior: float, *, false_alarm: float | None = None, llr: float | None = None
) -> Calibration:
    """Fit a calibration to the scores of all corpora of a system, and choose a threshold.

    Args:
        scores: of utterances that neither trained the detector nor chose its checkpoint.
        prior: prior of bona fide at which the cost of the ratios shall be lowest.
        false_alarm: wanted false alarm rate of the threshold: the guaranteed threshold, or the one of these utterances
            if they are too few for a guarantee.
        llr: threshold as a log-likelihood ratio.

    Raises:
        InputError: the scores cannot be calibrated.
    """
    trials = scores.utterances.trials()
    bonafide, spoof = trials.by_class
    if not (bonafide.size and spoof.size):
        raise InputError(f"{scores.location}: a calibration needs bona fide and spoof utterances")
    try:
        fitted = affine_calibration(bonafide, spoof, prior)
    except InputError as error:
        raise InputError(f"{scores.location}: {error}") from error
    threshold = None
    if false_alarm is not None:
        chosen = threshold_for(fitted.apply(spoof), false_alarm)
        is_guaranteed = chosen.guaranteed is not None
        value = chosen.point if chosen.guaranteed is None else chosen.guaranteed
        threshold = ChosenThreshold(value, false_alarm, is_guaranteed)
    elif llr is not None:
        threshold = ChosenThreshold(llr, None, False)
    digest = hashlib.sha256(trials.scores.tobytes() + trials.is_bonafide.tobytes()).hexdigest()[:16]
    identity = {name: str(scores.identity.get(name)) for name in IDENTITY}
    return Calibration(
        fitted.scale,
        fitted.offset,
        prior,
        **identity,
        system=scores.system,
        snapshot=str(scores.identity.get("snapshot")),
        corpora=tuple(scores.corpora),
        scores_digest=digest,
        num_bonafide=bonafide.size,
        num_spoof=spoof.size,
        threshold=threshold,
    )
