"""Go the whole road on small corpora made here: ingest, train, score, evaluate. No GPU, no server, no download.

    bonafide demo --out demo

Speech comes from espeak-ng and stands in for bona fide speech; spoofs are that speech after real artifact processes.
The evaluation corpora hold languages and processes that training never heard.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.__main__ import run_command
from jobs.ray_session import ray_session
from pipeline.config import run, to_toml

PRESET = Path(__file__).parent / "presets" / "demo.toml"
TRAINING = "asvspoof2019_la,fleurs,mlaad"
EVALUATION = "in_the_wild,fakeorreal"


@dataclass(frozen=True)
class DemoConfig:
    """Where the demo writes, and how much."""

    out: str = "demo"
    """Local folder of everything the demo writes; what is there and whole is used again."""
    minutes: float = 48.0
    """Audio to make."""
    seed: int = 0


def main(config: DemoConfig) -> None:
    """Make corpora, then run the four jobs as a user would."""
    from pipeline.evaluation import layout
    from pipeline.storage import Folder

    started = time.monotonic()
    out = Path(config.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    Folder(str(out)).commit("demo.toml", to_toml(config).encode())
    data, store = str(out / "data"), str(out / "store")
    training, scores = out / "training", out / "scores"
    tracking = ["--tracking-uri", f"sqlite:///{out}/mlflow.db"]

    title("1/5 corpora: espeak-ng speaks, artifact processes spoof")
    make_corpora(config, Path(data))
    with ray_session():
        title("2/5 ingest: corpora → shards and a snapshot")
        corpora = f"{TRAINING},{EVALUATION}"
        job("ingest", "--root", data, "--store", store, "--corpora", corpora, "--shard-mib", "8", *tracking)
        title("3/5 train: snapshot → detector, two workers")
        job("train", "--config", str(PRESET), "--store", store, "--out", str(training), *tracking)
        title("4/5 score: the detector before and after training, on languages and processes it never heard")
        systems = {"untrained": "initial.safetensors", "trained": "detector.safetensors"}
        for system, file in systems.items():
            checkpoint = ["--checkpoint", str(training / file), "--system", system]
            place = ["--store", store, "--corpora", EVALUATION, "--out", str(scores / system)]
            size = ["--part-seconds", "300", "--num-workers", "1"]  # another one costs more than it brings
            job("score", *place, *checkpoint, *size, *tracking)
    title("5/5 evaluate: scores → EER")
    sets = ",".join(str(scores / system) for system in systems)
    job("evaluate", "--scores", sets, "--out", str(out / "report"), *tracking)
    print(f"\nDone in {time.monotonic() - started:.0f} s.")
    print(f"Report:    {out / 'report' / layout.REPORT_PAGE}")
    print(f"Validation: {training / 'validation.html'}")
    print(
        f"MLflow UI: {Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri sqlite:///{out}/mlflow.db\n"
        "           then http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
    )


def title(text: str) -> None:
    """Say which stretch of the road begins."""
    print(f"\n── {text}", flush=True)


def make_corpora(config: DemoConfig, root: Path) -> None:
    """Write the demo corpora, or keep the ones that are there."""
    from pipeline.progress import Progress
    from pipeline.synthetic.corpora import write_demo_corpora

    progress = Progress("making", 0, "recordings")

    def count(done: int, total: int) -> None:
        progress.total = total
        progress.add(done - progress.done)

    write_demo_corpora(
        root, seed=config.seed, minutes=config.minutes, num_workers=os.cpu_count() or 1, on_progress=count
    )
    progress.print_now()


def job(name: str, *flags: str) -> None:
    """Run a command as if it were typed, on the Ray that the demo has started."""
    status = run_command(name, flags)
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    sys.exit(run(main))
