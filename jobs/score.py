"""Score corpora of a store, or any folder of audio files: one row per utterance, higher = more bona fide.

    bonafide score --store STORE --corpora in_the_wild --checkpoint RUN/detector.safetensors --out SCORES
    bonafide score --audio DIR --checkpoint FILE --out SCORES
    bonafide score --audio DIR --checkpoint models:/bonafide-xlsr_300m@best --tracking-uri URI --out SCORES

Running the same command again scores only the missing parts. The exit status is 1 if any audio has no score: a file
that cannot be decoded, or one that does not fit into memory. Hidden files, and those that neither are audio nor have
the name of audio, do not count.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.checkpoint_source import fetch_checkpoint
from jobs.devices import check_gpus
from jobs.ray_session import ray_session
from jobs.scoring import alone
from jobs.scoring.config import ScoreConfig
from jobs.scoring.description import describe, print_losses, print_summary, scores_identity, system_name
from jobs.scoring.executor import Executor
from jobs.scoring.folder import (
    check_folder,
    claim_folder,
    count_scores,
    publish,
    read_rejects,
    write_plan,
)
from jobs.scoring.inputs import ScoringPlan, plan_scoring
from jobs.scoring.loop import score_parts
from jobs.scoring.mlflow_run import log_to_mlflow, start_run
from jobs.scoring.on_ray import RayExecutor
from jobs.scoring.parts import divide_rows
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
    plan = plan_scoring(config, out)
    checkpoint = fetch_checkpoint(config.checkpoint, config.tracking_uri)
    check_gpus(config.device, 1)
    division = divide_rows(plan.rows, config.part_seconds, out)
    is_alone = alone.is_enough(len(division.missing))
    if is_alone:
        alone.prepare_processes()
    # They import torch, which takes seconds: what is wrong in the command is known before.
    from pipeline.detector.checkpoint import load_detector
    from pipeline.detector.scoring import WindowPolicy

    policy = WindowPolicy.parse(config.window)
    loaded = load_detector(checkpoint.path, config.variant or None)
    checkpoint.check(loaded.digest)
    print(loaded.coverage, flush=True)

    identity = scores_identity(config, plan, loaded, policy)
    check_folder(out, identity)
    system = system_name(config, checkpoint, loaded)
    with (
        _open_executor(config, plan, out, checkpoint.path, loaded, is_alone=is_alone) as executor,
        start_run(config, system, checkpoint, loaded, identity) as tracked,
    ):
        claim_folder(out, identity)
        write_plan(out, plan.rows, division.sizes)
        print(division, flush=True)
        audio_s = 0.0
        if division.missing:
            pool = choose_pool(config, division.missing_seconds, executor.machines())
            audio_s = score_parts(plan, division, out, executor, pool)
        rejects = [*plan.rejects, *read_rejects(out, len(division.sizes))]
        num_scored = count_scores(out, len(division.sizes))
        assert num_scored + len(rejects) == plan.num_found, (num_scored, len(rejects), plan.num_found)
        description = identity | describe(
            config, system, checkpoint, loaded, num_scored=num_scored, rejects=rejects, run_id=tracked.run_id
        )
        publish(out, config, description, rejects)
        log_to_mlflow(tracked, plan, description, audio_s)
    print_summary(out, description, tracked.url)
    return print_losses(out, rejects, plan.num_found)


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
