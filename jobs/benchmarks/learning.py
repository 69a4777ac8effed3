"""Compares ways to train: each method trains detectors with several seeds, which are scored on unseen corpora.

A method is a table of settings of `bonafide train` in a TOML file, over those of its table `[all]`; the first method
is the one that the others are compared with. In texts, `{out}` stands for the folder of the results and `{seed}` for
the seed, so one method can start from the detector of another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w

from jobs.__main__ import run_command
from jobs.benchmarks.table import Measured, print_now
from jobs.ray_session import ray_session
from jobs.training import folder
from pipeline.config import load_toml
from pipeline.errors import InputError, did_you_mean
from pipeline.evaluation.scores import load_scores
from pipeline.fields import LocalPath, Location, Names, Range
from pipeline.metrics import equal_error_rate
from pipeline.storage import Folder

METHODS = Path(__file__).with_name("learning.toml")
"""The methods that are compared by default."""

ALL = "all"
"""Table with the settings of all methods."""

RESULTS = "results.json"


@dataclass(frozen=True)
class LearningBenchmark:
    """Settings of `bonafide benchmark learning`."""

    out: LocalPath = ""
    """Local folder for trainings and scores; those that are complete are reused. Empty: a temporary one."""
    store: Location = ""
    """Folder or s3:// URI of a store with training and evaluation corpora; empty: those of `bonafide demo`, in which
    one attack of MLAAD has 20 times as many recordings as each other one."""
    evaluation: Names = Names(["in_the_wild", "fakeorreal"])
    """Corpora that are scored."""
    methods: LocalPath = str(METHODS)
    """TOML file of the methods."""
    only: Names = Names()
    """Methods to run; by default all. The first of the file always runs."""
    num_seeds: Annotated[int, Range(2, 100)] = 3
    """Trainings of each method, with the seeds 1, 2, …"""
    minutes: Annotated[float, Range(1, 10_000)] = 48.0
    """Minutes of the corpora that are made without a store, before one attack is multiplied."""


@dataclass(frozen=True)
class Run:
    """One training of a method."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"


def measure(config: LearningBenchmark, scratch: Path) -> Iterator[Measured]:
    """Train and score every method with every seed, then compare the EER.

    Args:
        config: settings.
        scratch: folder for results if the settings name none.

    Raises:
        InputError: the file of methods is malformed, or a command refuses its settings.
    """
    out = Path(config.out).absolute() if config.out else scratch
    methods = load_methods(config.methods, config.only)
    runs = [Run(method, seed) for seed in range(1, config.num_seeds + 1) for method in methods]
    eers: dict[Run, dict[str, float]] = {}
    with ray_session():
        store = config.store or make_store(out, config)
        for number, run in enumerate(runs, start=1):
            print_now(f"{number}/{len(runs)}: {run.method}, seed {run.seed}")
            eers[run] = train_and_score(run, methods[run.method], store, config.evaluation, out)
            print_now(f"{run.name}: EER {format_eers(eers[run])}")
    (out / RESULTS).write_text(json.dumps({run.name: eers[run] for run in runs}, indent=2) + "\n")
    yield from compare(eers, list(methods), config.evaluation)


def load_methods(path: str, only: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Load the settings of each method.

    Args:
        path: TOML file.
        only: methods to keep besides the first; all if empty.

    Raises:
        InputError: the file has fewer than two methods, or lacks one of `only`.
    """
    tables = load_toml(path)
    common = tables.pop(ALL, {})
    if len(tables) < 2 or not all(isinstance(table, dict) for table in tables.values()):
        raise InputError(f"{path}: give two or more tables [METHOD], each with settings of bonafide train")
    for name in only:
        if name not in tables:
            raise InputError(f"{path} has no method {name!r}{did_you_mean(name, list(tables))}")
    first = next(iter(tables))
    return {
        name: merge(common, table) for name, table in tables.items() if not only or name in (first, *only)
    }


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Override nested settings."""
    merged = dict(settings)
    for name, value in changes.items():
        nested = merged.get(name)
        if isinstance(value, dict) and isinstance(nested, dict):
            merged[name] = merge(nested, value)
        else:
            merged[name] = value
    return merged


def make_store(out: Path, config: LearningBenchmark) -> str:
    """Make and ingest the corpora of the demo, with one attack multiplied; returns the store."""
    from pipeline.synthetic.corpora import write_demo_corpora

    print_now("making corpora")
    write_demo_corpora(out / "data", minutes=config.minutes, dominance=20)
    store = str(out / "store")
    corpora = ",".join(("asvspoof2019_la", "fleurs", "mlaad", *config.evaluation))
    command("ingest", "--root", str(out / "data"), "--store", store, "--corpora", corpora, "--shard-mib", "8")
    return store


def train_and_score(
    run: Run, settings: Mapping[str, Any], store: str, corpora: Sequence[str], out: Path
) -> dict[str, float]:
    """Train with the settings of a method and score the detector: the EER of each corpus."""
    training, scores = out / "trainings" / run.name, out / "scores" / run.name
    file = write_settings(out, run, settings)
    seeds = ["--training.seed", str(run.seed), "--batch.seed", str(run.seed)]
    command("train", "--config", str(file), "--store", store, "--out", str(training), *seeds)
    command(
        *("score", "--store", store, "--corpora", ",".join(corpora), "--out", str(scores)),
        *("--checkpoint", str(training / folder.DETECTOR), "--system", run.name, "--part-seconds", "300"),
    )
    by_corpus = load_scores(Folder(str(scores))).by_corpus
    return {
        corpus: equal_error_rate(rows.scores[rows.is_bonafide], rows.scores[~rows.is_bonafide]).eer
        for corpus, rows in by_corpus.items()
    }


def write_settings(out: Path, run: Run, settings: Mapping[str, Any]) -> Path:
    """Write the settings of a run as a file for `bonafide train --config`."""
    file = out / "methods" / f"{run.name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tomli_w.dumps(fill(settings, {"out": str(out), "seed": str(run.seed)})))
    return file


def fill(value: Any, names: Mapping[str, str]) -> Any:
    """Replace {out} and {seed} in all texts of nested settings."""
    if isinstance(value, dict):
        return {name: fill(nested, names) for name, nested in value.items()}
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
    return value


def command(name: str, *flags: str) -> None:
    """Run a command as a user would.

    Raises:
        InputError: it failed.
    """
    if run_command(name, flags):
        raise InputError(f"bonafide {name} {' '.join(flags)} failed; correct what it names above")


def compare(
    eers: Mapping[Run, Mapping[str, float]], methods: Sequence[str], corpora: Sequence[str]
) -> Iterator[Measured]:
    """Compare the mean EER over corpora of each method with that of the first, seed by seed."""
    seeds = sorted({run.seed for run in eers})
    means = {
        method: np.array([np.mean(list(eers[Run(method, seed)].values())) for seed in seeds])
        for method in methods
    }
    first = means[methods[0]]
    for method in methods:
        value, half = mean_interval(means[method])
        against = ""
        if method != methods[0]:
            change, width = mean_interval(np.log(means[method] / first))
            low, high = math.expm1(change - width), math.expm1(change + width)
            against = f"{math.expm1(change):+.0%} ({low:+.0%} … {high:+.0%}); "
        of_corpora = {
            corpus: float(np.mean([eers[Run(method, seed)][corpus] for seed in seeds])) for corpus in corpora
        }
        yield Measured(method, f"{value:.2%} ± {half:.2%}", f"{against}{format_eers(of_corpora)}")


def mean_interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """The mean of independent values, and half the width of its 95 % interval by Student's t."""
    import scipy.stats

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(scipy.stats.t.ppf(0.975, len(values) - 1)) * error


def format_eers(eers: Mapping[str, float]) -> str:
    """Format the EER of each corpus."""
    return ", ".join(f"{corpus} {eer:.2%}" for corpus, eer in eers.items())
