"""Score corpora of a store, or any folder of audio files: one row per utterance, higher = more bona fide.

    bonafide score --store STORE --corpora in_the_wild --checkpoint RUN/detector.safetensors --out SCORES
    bonafide score --audio DIR --checkpoint FILE --out SCORES
    bonafide score --audio DIR --checkpoint models:/bonafide-xlsr_300m@best --tracking-uri URI --out SCORES
    bonafide score --store STORE --checkpoint FILE --window whole,window:4.04:first --out OUT
    bonafide score --store STORE --use validation --checkpoint FILE --out VALIDATION_SCORES

With several windows, each utterance is decoded once, and OUT has a SCORES folder for each window. Running the
same command again scores only the missing parts. The exit status is 1 if any audio has no score under one of the
windows: a file that cannot be decoded, or one that does not fit into memory. Hidden files, and those that neither are
audio nor have the name of audio, do not count.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoint_source import Checkpoint, fetch_checkpoint
from jobs.devices import check_gpus
from jobs.ray_session import ray_session
from jobs.scoring import alone
from jobs.scoring.calibrations import choose_calibrations, read_files
from jobs.scoring.config import ScoreConfig
from jobs.scoring.description import (
    PolicyScoring,
    describe,
    divide_scoring,
    print_losses,
    print_summary,
)
from jobs.scoring.details import DetailSettings, choose_details
from jobs.scoring.executor import Executor
from jobs.scoring.folder import (
    check_folders,
    claim_folders,
    count_embeddings,
    count_scores,
    policy_folders,
    publish,
    read_rejects,
    write_plan,
)
from jobs.scoring.inputs import Row, ScoringPlan
from jobs.scoring.loop import score_parts
from jobs.scoring.mlflow_run import log_to_mlflow, start_run
from jobs.scoring.on_ray import RayExecutor
from jobs.scoring.parts import divide_rows
from jobs.scoring.planning import plan_scoring
from jobs.scoring.pool import choose_pool
from jobs.scoring.weights import load_again
from pipeline import tracking
from pipeline.config import run
from pipeline.storage import Folder
from pipeline.streams import continue_without_output

if TYPE_CHECKING:
    from pipeline.detector.checkpoint import Loaded


def main(config: ScoreConfig) -> int:
    """Plan the parts, score the missing ones, and describe the result; returns the exit status."""
    continue_without_output()
    tracking.check(config.tracking_uri, config.experiment)
    out = Folder(config.out)
    files = read_files(config)
    plan = plan_scoring(config, out)
    checkpoint = fetch_checkpoint(config.checkpoint, config.tracking_uri)
    check_gpus(config.device, 1)
    outs = policy_folders(out, config.window)
    division = divide_rows(plan.rows, config.part_seconds, outs)
    is_alone = alone.is_enough(len(division.missing))
    if is_alone:
        alone.prepare_processes()
    # They import torch, which takes seconds: what is wrong in the command is known before.
    from pipeline.detector.checkpoint import load_detector

    loaded = load_detector(checkpoint.path, config.variant or None)
    checkpoint.check(loaded.digest)
    print(loaded.coverage, flush=True)
    calibrations = choose_calibrations(config, files, checkpoint, loaded)
    details = choose_details(config, loaded.detector, plan.audio_source.key)

    scorings = divide_scoring(config, plan, checkpoint, loaded, outs, calibrations, files, details)
    identities = {policy: scoring.identity for policy, scoring in scorings.items()}
    check_folders(out, identities)
    folder_of_plan = outs[config.window[0]]
    with (
        _open_executor(config, plan, folder_of_plan, checkpoint.path, loaded, is_alone=is_alone) as executor,
        contextlib.ExitStack() as runs,
    ):
        tracked_of = {
            policy: runs.enter_context(
                start_run(scoring.config, scoring.system, checkpoint, loaded, scoring.identity)
            )
            for policy, scoring in scorings.items()
        }
        claim_folders(out, identities)
        for folder in outs.values():
            write_plan(folder, plan.rows, division.sizes)
        print(division, flush=True)
        audio_s = dict.fromkeys(outs, 0.0)
        if division.missing:
            pool = choose_pool(config, division.missing_seconds, executor.machines(), details.wanted)
            audio_s = score_parts(plan, division, outs, calibrations, details, executor, pool)
        results = {}
        for policy, scoring in scorings.items():
            tracked = tracked_of[policy]
            results[policy] = _publish(
                scoring, plan, checkpoint, loaded, details, len(division.sizes), tracked.run_id
            )
            log_to_mlflow(tracked, plan, results[policy].description, audio_s[policy])
    for policy, result in results.items():
        print_summary(outs[policy], result.description, tracked_of[policy].url)
    return max(
        print_losses(outs[policy], policy if len(outs) > 1 else "", result.rejects, plan.num_found)
        for policy, result in results.items()
    )


@dataclass(frozen=True)
class _Result:
    """Complete scores under one window policy."""

    description: Mapping[str, Any]
    """Content of `layout.DESCRIPTION`."""
    rejects: list[Row]


def _publish(
    scoring: PolicyScoring,
    plan: ScoringPlan,
    checkpoint: Checkpoint,
    loaded: Loaded,
    details: DetailSettings,
    num_parts: int,
    run_id: str | None,
) -> _Result:
    """Complete the folder of a policy whose parts all have their scores."""
    out = Folder(scoring.config.out)
    rejects = [*plan.rejects, *read_rejects(out, num_parts)]
    num_scored = count_scores(out, num_parts)
    assert num_scored + len(rejects) == plan.num_found, (num_scored, len(rejects), plan.num_found)
    description = describe(
        scoring,
        checkpoint,
        loaded,
        details,
        num_scored=num_scored,
        num_sampled=details.count_sample(plan.rows, rejects),
        num_embedded=count_embeddings(out, num_parts),
        rejects=rejects,
        run_id=run_id,
    )
    regions = details.choose_regions(plan)
    publish(out, scoring.config, description, rejects, regions)
    return _Result(description, rejects)


@contextlib.contextmanager
def _open_executor(
    config: ScoreConfig, plan: ScoringPlan, out: Folder, file: Path, loaded: Loaded, *, is_alone: bool
) -> Iterator[Executor]:
    """Start what runs the processes: nothing if this machine is enough, else Ray."""
    if is_alone:
        make_detector = functools.partial(load_again, file, config.variant or None, loaded.digest)
        with alone.AloneExecutor(plan.audio_source, out, make_detector) as executor:
            yield executor
    else:
        with ray_session():
            yield RayExecutor(plan.audio_source, out, loaded.detector)


if __name__ == "__main__":
    sys.exit(run(main))
