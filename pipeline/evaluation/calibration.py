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
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError
from pipeline.evaluation.formatting import describe_frames
from pipeline.evaluation.frames import has_frames, load_frames, load_regions, timeline_of
from pipeline.evaluation.scores import PROTOCOL, ScoreSet
from pipeline.metrics.calibration import AffineMap, affine_calibration, threshold_for
from pipeline.metrics.localisation import range_eer
from pipeline.metrics.timeline import NonSpeech
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
class FrameThreshold:
    """The score below which a frame counts as spoofed, and what it was chosen on."""

    score: float
    range_eer: float
    """Share of bona fide time that it rejects, and of spoofed time that it accepts."""
    smoothing_s: float
    """Window over which frames were averaged."""
    non_speech: NonSpeech
    """What regions of non-speech counted as."""
    num_utterances: int
    bonafide_seconds: float
    spoof_seconds: float

    def in_words(self) -> str:
        """How frames were treated: `averaged over 0.2 s, non-speech excluded`."""
        return describe_frames(self.smoothing_s, self.non_speech)


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
    frame_threshold: FrameThreshold | None = None
    """None without frames of bona fide and of spoofed time."""

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
    threshold, frame_threshold = record["threshold"], record.get("frame_threshold")
    calibration = Calibration(
        **{
            **record,
            "corpora": tuple(record["corpora"]),
            "threshold": None if threshold is None else ChosenThreshold(**threshold),
            "frame_threshold": None if frame_threshold is None else FrameThreshold(**frame_threshold),
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
    identity: dict[str, Any] = {name: str(scores.identity.get(name)) for name in IDENTITY}
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


def fit_frames(scores: ScoreSet, smoothing_s: float, non_speech: NonSpeech) -> FrameThreshold | None:
    """Choose the threshold of frames at the range EER of all utterances that have frames and regions.

    Args:
        scores: as in `fit`.
        smoothing_s: window over which frames are averaged.
        non_speech: what regions of non-speech count as.

    Returns:
        None if there are no frames of bona fide time, or none of spoofed time.

    Raises:
        InputError: frames are missing, or they do not fit the regions.
    """
    if not has_frames(scores.identity):
        return None
    folder = Folder(scores.location)
    regions = load_regions(folder)
    uids = scores.utterances.uids
    framed = load_frames(folder, uids.filter(pc.is_in(uids, value_set=regions["uid"].unique())))
    timeline = timeline_of(framed, regions, smoothing_s, non_speech, scores.location)
    if timeline is None or not (timeline.total_bonafide_ns and timeline.total_spoof_ns):
        return None
    eer = range_eer(timeline)
    return FrameThreshold(
        # Frames at the threshold of the range EER are rejected, as are those below this one.
        score=float(np.nextafter(eer.threshold, np.inf)),
        range_eer=eer.eer,
        smoothing_s=smoothing_s,
        non_speech=non_speech,
        num_utterances=len(framed.rows),
        bonafide_seconds=eer.bonafide_s,
        spoof_seconds=eer.spoof_s,
    )
