"""Run every stage, from ingest to trace, on small synthetic corpora; needs no GPU, server or download.

    bonafide demo --out demo

Speech synthesised by espeak-ng replaces bona fide speech; spoofs are the same kind of speech after real artifact
processes. The languages, voices and processes of the evaluation corpora do not occur in training.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jobs.__main__ import run_command
from jobs.ray_session import ray_session
from jobs.training import folder
from pipeline.config import load_toml, run, to_toml
from pipeline.drift.layout import DRIFT_PAGE
from pipeline.evaluation import layout
from pipeline.fields import LocalPath, Range, Seed
from pipeline.streams import continue_without_output
from pipeline.tracing.layout import TRACE_PAGE

PRESET = Path(__file__).parent / "presets" / "demo.toml"
TRAINING = "asvspoof2019_la,fleurs,mlaad"
EVALUATION = "in_the_wild,fakeorreal"
DOMINANCE = 20
"""How many times as many recordings of MLAAD are from one attack as from each other one; the preset balances them."""

CARD = "corpora.html"

FALSE_ALARM = "0.1"
"""Of the threshold: low, but so high that a promise needs no more spoof utterances than there are."""

EMBEDDINGS = ("--embeddings", "--layer", "head,spectrum")

GALLERY = "asvspoof2019_la"
"""The corpus whose spoofs are traced: its manifest names their attacks."""

UNKNOWN_ATTACK = "A04"
"""It is left out of the gallery, so none of the known attacks has made its utterances."""

REFUSED = 2
"""Exit status of a command that refuses its input, as `calibrate` and `drift` may with little audio."""

ALARM = 1
"""Exit status of `drift` if utterances have drifted, as those of the evaluation have."""


@dataclass(frozen=True)
class DemoConfig:
    """Where the demo writes, and how much audio it makes."""

    out: LocalPath = "demo"
    """Local folder for all results; complete results of an earlier run are reused."""
    minutes: Annotated[float, Range(1, 10_000)] = 48.0
    """Minutes of audio to synthesise, before one attack is multiplied."""
    seed: Seed = 0
    """Seed of the synthetic corpora."""


def main(config: DemoConfig) -> None:
    """Make corpora, then run the jobs as a user would."""
    from pipeline.storage import Folder

    continue_without_output()
    started = time.monotonic()
    out = Path(config.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    Folder(str(out)).commit("demo.toml", to_toml(config).encode())
    data, store = str(out / "data"), str(out / "store")
    training, scores = out / "training", out / "scores"
    tracking = ["--tracking-uri", f"sqlite:///{out}/mlflow.db"]
    # Starting a second worker takes longer than it saves.
    size = ["--part-seconds", "300", "--num-workers", "1"]

    print_stage("1/8 corpora: synthesise speech and turn half of it into spoofs")
    make_corpora(config, Path(data))
    with ray_session():
        print_stage("2/8 ingest: corpora → shards and a snapshot")
        corpora = f"{TRAINING},{EVALUATION}"
        run_job(
            "ingest", "--root", data, "--store", store, "--corpora", corpora, "--shard-mib", "8", *tracking
        )
        recipe = load_toml(PRESET)["recipe"]
        card = ["--recipe", recipe, "--html", str(out / CARD)]
        run_job("corpora", "--store", store, "--corpora", TRAINING, *card)
        print_stage("3/8 train: snapshot → detector, with two workers and balanced domains")
        run_job("train", "--config", str(PRESET), "--store", store, "--out", str(training), *tracking)
        print_stage(
            "4/8 calibrate: the scores of the validation utterances → log-likelihood ratios, a threshold"
        )
        detector, validation = str(training / folder.DETECTOR), str(scores / "validation")
        folders = ["--store", store, "--use", "validation", "--out", validation, *EMBEDDINGS]
        run_job("score", *folders, "--checkpoint", detector, "--system", "trained", *size, *tracking)
        threshold = ["--false-alarm", FALSE_ALARM, "--detector", detector]
        flags = ["--scores", validation, "--out", str(out / "calibration.json"), *threshold, *tracking]
        run_job("calibrate", *flags, accepted=[REFUSED])
        print_stage(
            "5/8 score: the detector before and after training, on unseen languages, voices and processes"
        )
        systems = {"untrained": folder.INITIAL, "trained": folder.DETECTOR}
        for system, file in systems.items():
            checkpoint = ["--checkpoint", str(training / file), "--system", system]
            folders = ["--store", store, "--corpora", EVALUATION, "--out", str(scores / system)]
            run_job("score", *folders, *checkpoint, *EMBEDDINGS, "--frames", *size, *tracking)
        sources = str(scores / "sources")
        folders = ["--store", store, "--corpora", GALLERY, "--out", sources, "--checkpoint", detector]
        run_job("score", *folders, "--embeddings", "--layer", "all", *size, *tracking)
    print_stage("6/8 evaluate: scores → EER")
    sets = ",".join(str(scores / system) for system in systems)
    run_job("evaluate", "--scores", sets, "--out", str(out / "report"), *tracking)
    print_stage("7/8 drift: do the utterances of the evaluation differ from those of the validation?")
    reference, drift = str(out / "reference.parquet"), out / "drift"
    # The demo has too few voices to compare voices, and too few utterances to see new artifacts in the head.
    fitted = ["--layer", "spectrum", "--clusters", "utterance"]
    run_job("drift", "--fit", validation, "--out", reference, *fitted, accepted=[REFUSED])
    flags = ["--reference", reference, "--new", str(scores / "trained"), "--out", str(drift)]
    run_job("drift", *flags, *tracking, accepted=[ALARM, REFUSED])
    print_stage("8/8 trace: which process made a spoof, or none of those that are known?")
    divided = ["--gallery-splits", "train", "--new-splits", "validation,test", "--hold-out", UNKNOWN_ATTACK]
    trace = out / "trace"
    run_job("trace", "--gallery", sources, "--new", sources, "--out", str(trace), *divided, *tracking)
    print(f"\nDone in {time.monotonic() - started:.0f} s. Open next:")
    print(f"  evaluation report  {out / 'report' / layout.REPORT_PAGE}")
    print(f"  drift              {drift / DRIFT_PAGE}")
    print(f"  traced spoofs      {trace / TRACE_PAGE}")
    print(f"  corpora, domains   {out / CARD}")
    print(f"  validation report  {training / folder.VALIDATION_PAGE}")
    print(
        f"  MLflow             {Path(sys.executable).parent / 'mlflow'} ui "
        f"--backend-store-uri sqlite:///{out}/mlflow.db\n"
        "                     and http://127.0.0.1:5000/#/experiments/2/runs?workflowType=machine_learning"
    )


def print_stage(text: str) -> None:
    """Print the heading of a stage."""
    print(f"\n── {text}", flush=True)


def make_corpora(config: DemoConfig, root: Path) -> None:
    """Write the demo corpora, or reuse complete ones."""
    from pipeline.progress import Progress
    from pipeline.synthetic.corpora import write_demo_corpora

    def count(done: int, total: int) -> None:
        progress.total = total
        progress.add(done - progress.done)

    num_workers = os.cpu_count() or 1
    with Progress("synthesising", None, "recording") as progress:
        write_demo_corpora(
            root,
            seed=config.seed,
            minutes=config.minutes,
            dominance=DOMINANCE,
            num_workers=num_workers,
            on_progress=count,
        )


def run_job(name: str, *flags: str, accepted: Collection[int] = ()) -> None:
    """Run a command with flags as on the command line, and exit if it fails.

    Args:
        name: the command.
        flags: its flags.
        accepted: exit statuses besides 0 with which the demo continues.
    """
    status = run_command(name, flags)
    if status in accepted:
        print(f"{name} ended with status {status}; continuing", flush=True)
    elif status:
        raise SystemExit(status)


if __name__ == "__main__":
    sys.exit(run(main))
