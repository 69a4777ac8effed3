"""The description of scores: what determines them, what they are called, and how many there are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs.checkpoint_source import Checkpoint
from jobs.scoring.audio_files import LEFT_OUT
from jobs.scoring.config import ScoreConfig
from jobs.scoring.details import DetailSettings
from jobs.scoring.inputs import Row, ScoringPlan
from pipeline import tracking
from pipeline.config import to_dict
from pipeline.data.audio.containers.names import is_audio_name
from pipeline.evaluation import layout
from pipeline.evaluation.calibration import Calibration
from pipeline.fields import Names
from pipeline.progress import counted
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.checkpoint import Loaded

NOT_AUDIO = frozenset({"not_audio", "empty", "special", "link-loop"})
"""Reasons that are no loss of a score for a file whose name has no ending of audio."""


@dataclass(frozen=True)
class PolicyScoring:
    """The scoring under one window policy, whose result is a SCORES folder."""

    config: ScoreConfig
    """The settings of a command that scores under this policy alone, into this folder."""
    system: str
    """Name of the detector in tables, with the policy if there are several."""
    identity: Mapping[str, Any]


def divide_scoring(
    config: ScoreConfig,
    plan: ScoringPlan,
    checkpoint: Checkpoint,
    loaded: Loaded,
    outs: Mapping[str, Folder],
    calibrations: Mapping[str, Calibration],
    files: Mapping[str, Calibration],
    details: DetailSettings,
) -> dict[str, PolicyScoring]:
    """Divide a scoring by window policy.

    Args:
        config: settings for all policies.
        plan: what to score.
        checkpoint: the detector.
        loaded: the detector.
        outs: window policy → folder of its scores.
        calibrations: window policy → calibration of its scores; some have none.
        files: location → calibration, of those that the user gave.
        details: what is written beside the scores.
    """
    system = system_name(config, checkpoint, loaded)
    scorings = {}
    for policy, out in outs.items():
        name, alone = system, config
        if len(outs) > 1:
            name = f"{system} · {policy}"
            own = Names(location for location, each in files.items() if each.policy == policy)
            alone = replace(config, window=Names([policy]), out=out.uri, system=name, calibration=own)
        identity = scores_identity(config, plan, loaded, policy, calibrations.get(policy), details)
        scorings[policy] = PolicyScoring(alone, name, identity)
    return scorings


def scores_identity(
    config: ScoreConfig,
    plan: ScoringPlan,
    loaded: Loaded,
    policy: str,
    calibration: Calibration | None,
    details: DetailSettings,
) -> dict[str, Any]:
    """Collect everything that determines the scores, what is beside them, and their division into parts."""
    return {
        "weights_digest": loaded.digest,
        "variant": loaded.variant,
        **plan.identity,
        "policy": policy,
        "precision": config.precision,
        "calibration": None if calibration is None else calibration.to_record(),
        "part_seconds": config.part_seconds,
        **details.identity(),
    }


def system_name(config: ScoreConfig, checkpoint: Checkpoint, loaded: Loaded) -> str:
    """Return the name of the detector in tables."""
    if config.system:
        return config.system
    step = loaded.metadata.get("step")
    return f"{checkpoint.name} (step {step})" if step else checkpoint.name


def describe(
    scoring: PolicyScoring,
    checkpoint: Checkpoint,
    loaded: Loaded,
    details: DetailSettings,
    *,
    num_scored: int,
    num_sampled: int,
    num_embedded: int,
    rejects: Sequence[Row],
    run_id: str | None,
) -> dict[str, Any]:
    """Describe finished scores: the content of `layout.DESCRIPTION`."""
    step, log_odds = loaded.metadata.get("step"), loaded.metadata.get("training_log_odds")
    corpora = loaded.metadata.get("training_corpora")
    config = scoring.config
    embeddings = scoring.identity["embeddings"]
    if embeddings is not None:
        counts = {"num_utterances": num_embedded, "num_too_large": num_sampled - num_embedded}
        embeddings = {**embeddings, "widths": dict(details.widths), **counts}
    return {
        **scoring.identity,
        "embeddings": embeddings,
        "system": scoring.system,
        "checkpoint": checkpoint.uri,
        "head": loaded.detector.config.head.settings,
        "step": int(step) if step else None,
        "training_log_odds": None if log_odds is None else float(log_odds),
        "training_corpora": corpora.split(",") if corpora else None,
        "decoder": _decoder(config),
        "num_utterances": num_scored,
        "num_rejected": len(rejects),
        "rejected": count_by_reason(rejects),
        "tracking": {"run_id": run_id, "uri": tracking.without_credentials(config.tracking_uri)},
        "config": to_dict(config),
    }


def _decoder(config: ScoreConfig) -> dict[str, str]:
    """The libraries that decode and resample the audio, with their versions."""
    if config.store:
        return {"shards": "flac 16 kHz mono"}
    from pipeline.data.audio.versions import codec_versions

    return codec_versions() | {"resampler": "soxr_hq"}


def count_by_reason(rejects: Sequence[Row]) -> dict[str, int]:
    """Count rejected files by reason, in alphabetical order."""
    return dict(sorted(Counter(str(reject["reason"]) for reject in rejects).items()))


def is_loss(reject: Row) -> bool:
    """Whether a score is missing; files that are left out by rule, or are not audio, need none.

    A file that is named as audio is one that needs a score, whatever it holds.
    """
    if reject["reason"] in LEFT_OUT:
        return False
    return is_audio_name(reject["path"]) or reject["reason"] not in NOT_AUDIO


def print_losses(out: Folder, policy: str, rejects: Sequence[Row], num_found: int) -> int:
    """Name the scores that are missing on standard error; returns the exit status.

    Args:
        out: folder of the scores.
        policy: their window policy if there are several, else empty.
        rejects: what has no score.
        num_found: utterances or files in the input.
    """
    losses = [reject for reject in rejects if is_loss(reject)]
    if not losses:
        return 0
    reasons = ", ".join(f"{count} {reason}" for reason, count in count_by_reason(losses).items())
    under = f" under {policy}" if policy else ""
    print(
        f"bonafide score: {len(losses)} of {num_found} have no score{under}: {reasons}; "
        f"{out.location(layout.REJECTS)} lists them",
        file=sys.stderr,
    )
    return 1


def print_summary(out: Folder, description: Mapping[str, Any], run_url: str | None) -> None:
    """Print the numbers of scores and rejects, and where to find them."""
    print(f"{counted(description['num_utterances'], 'score')} in {out.uri}")
    for reason, count in description["rejected"].items():
        print(f"  {count} rejected: {reason}")
    if embeddings := description["embeddings"]:
        layers = ", ".join(embeddings["layers"])
        print(f"{counted(embeddings['num_utterances'], 'embedding')} of layer {layers}")
        if count := embeddings["num_too_large"]:
            print(f"{count} embeddings are too large for float16 and are left out", file=sys.stderr)
    if run_url:
        print(f"MLflow: {run_url}")
