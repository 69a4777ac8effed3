"""Post-train a detector on a snapshot with Ray Train.

    bonafide train --config jobs/presets/xlsr_300m.toml --store STORE --out RUN --init xlsr2_300m.pt

Run the same command again after any interruption: the training resumes from its newest checkpoint.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from jobs.devices import check_gpus
from jobs.ray_session import ray_session
from jobs.training import folder
from jobs.training.batch_size import find_on_cluster
from jobs.training.checks import check_data, check_resume, choose_recipe
from jobs.training.config import TrainConfig
from jobs.training.driver import run_until_complete
from jobs.training.lifecycle import check_folder, check_stored_weights, load_initial, publish, start_or_resume
from jobs.training.mlflow_run import log_complete, log_result, track_training
from jobs.training.record import load_record, load_result
from jobs.training.resolve import resolve
from jobs.training.worker import WorkerArguments
from pipeline import lease, tracking
from pipeline.config import run, to_toml
from pipeline.data.store.snapshot import load_snapshot
from pipeline.signals import StopSignals
from pipeline.storage import Folder
from pipeline.streams import continue_without_output


def main(config: TrainConfig) -> None:
    """Start or resume, train on the cluster, publish the best weights of all validations."""
    continue_without_output()
    started = time.monotonic()
    can_track = tracking.check(config.tracking_uri, config.experiment)
    out = Folder(config.out)
    record = load_record(out)
    snapshot = load_snapshot(Folder(config.store), record.snapshot if record else config.snapshot)
    recipe = choose_recipe(config)
    training = resolve(config, record, recipe, snapshot)
    result = load_result(out)
    if record is None:
        check_folder(out)
        check_data(training)
    else:
        check_resume(training, record)
        check_stored_weights(out, record, result)
    if record is not None and result is not None:
        print(f"{out.location(folder.DETECTOR)} is already trained; nothing to do")
        if can_track:
            log_complete(training, record, result)
        return
    check_gpus(config.device, config.num_workers[0])
    initial = load_initial(training) if record is None else None
    num_cpus = max(config.num_workers[0] * config.cpus_per_worker, os.cpu_count() or 1)
    with StopSignals("bonafide train") as signals, lease.held(out) as held, ray_session(num_cpus=num_cpus):
        record = load_record(out)  # another driver may have started it since
        if record is None and config.find_batch_seconds:
            batch = replace(training.config.batch, max_seconds=find_on_cluster(training.config))
            config = replace(config, batch=batch)
        training = resolve(config, record, recipe, snapshot)
        record = start_or_resume(training, initial)
        del initial  # gigabytes, and the workers load their own
        out.commit(folder.CONFIG, tracking.without_credentials(to_toml(training.config)).encode())
        with track_training(training, record) as tracked:
            run_until_complete(WorkerArguments(training, record, held.fence), signals)
            held.fence.check()
            result = publish(out, record, tracked.run_id)
            log_result(training, record, result, tracked)
    print(
        f"trained in {time.monotonic() - started:.0f} s; validation {result.summary}: {out.location(folder.DETECTOR)}"
    )
    if tracked.url:
        print(f"MLflow: {tracked.url}")


if __name__ == "__main__":
    sys.exit(run(main))
