"""Score corpora of a store, or any folder of audio files: one row per utterance, higher = more bona fide.

    bonafide score --store STORE --corpora in_the_wild --checkpoint RUN/detector.safetensors --out SCORES
    bonafide score --audio DIR --checkpoint FILE --out SCORES
    bonafide score --audio DIR --checkpoint models:/bonafide-xlsr_300m@best --tracking-uri URI --out SCORES

Running the same command again scores only the missing parts.
"""

from __future__ import annotations

import sys

from jobs.ray_session import ray_session
from jobs.scoring.config import ScoreConfig
from jobs.scoring.description import describe, print_summary, scores_identity, system_name
from jobs.scoring.folder import claim_folder, count_scores, publish, read_rejects, write_plan
from jobs.scoring.inputs import plan_scoring
from jobs.scoring.mlflow_run import log_to_mlflow, start_run
from jobs.scoring.parts import choose_pool, plan_parts, score_parts
from jobs.scoring.weights import fetch_checkpoint, put_detector
from pipeline.config import run
from pipeline.storage import Folder
from pipeline.streams import continue_without_output


def main(config: ScoreConfig) -> None:
    """Plan the parts, score the missing ones, and describe the result."""
    from pipeline.detector.checkpoint import load_detector
    from pipeline.detector.scoring import WindowPolicy

    continue_without_output()
    out = Folder(config.out)
    policy = WindowPolicy.parse(config.window)
    plan = plan_scoring(config, out)
    checkpoint = fetch_checkpoint(config.checkpoint, config.tracking_uri)
    loaded = load_detector(checkpoint.path, config.variant or None)
    print(loaded.coverage, flush=True)

    identity = scores_identity(config, plan, loaded, policy)
    claim_folder(out, identity)
    part_sizes = plan_parts(plan.rows["seconds"].to_numpy(), config.part_seconds)
    write_plan(out, plan.rows, part_sizes)

    system = system_name(config, checkpoint, loaded)
    with start_run(config, system, checkpoint, loaded, identity) as tracked, ray_session():
        audio_s = score_parts(plan, part_sizes, out, put_detector(loaded.detector), choose_pool(config))
        rejects = [*plan.rejects, *read_rejects(out, len(part_sizes))]
        num_scored = count_scores(out, len(part_sizes))
        assert num_scored + len(rejects) == plan.num_found, (num_scored, len(rejects), plan.num_found)
        description = identity | describe(
            config, system, checkpoint, loaded, num_scored=num_scored, rejects=rejects, run_id=tracked.run_id
        )
        publish(out, config, description, rejects)
        log_to_mlflow(tracked, plan, description, audio_s)
    print_summary(out, description, tracked.url)


if __name__ == "__main__":
    sys.exit(run(main))
