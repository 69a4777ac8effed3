"""Score corpora of a store, or any folder of audio files: one row per utterance, higher = more bona fide.

    bonafide score --store STORE --corpora in_the_wild --checkpoint RUN/detector.safetensors --out SCORES
    bonafide score --audio DIR --checkpoint FILE --out SCORES
    bonafide score --audio DIR --checkpoint models:/bonafide-xlsr_300m@best --tracking-uri URI --out SCORES

Run it again at any time: it scores only the parts that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from jobs.ray_session import num_devices, ray_session
from jobs.scoring import weights
from jobs.scoring.inputs import REJECTS, Planned, plan_folder, plan_store, reasons
from jobs.scoring.parts import PLAN, Pool, num_scored, plan_parts, rejected, score_parts
from jobs.scoring.weights import Checkpoint
from pipeline import tables, tracking
from pipeline.config import Names, run, to_dict, to_toml
from pipeline.errors import InputError
from pipeline.storage import Folder


@dataclass(frozen=True)
class ScoreConfig:
    """What to score, with what, how."""

    checkpoint: str
    """Detector file or folder, local or s3://, in any layout that `bonafide train --init` takes; or a registered one:
    models:/NAME/VERSION, models:/NAME@best."""
    out: str
    """Folder or s3:// URI of the scores."""
    store: str = ""
    """Folder or s3:// URI that `bonafide ingest` has filled."""
    audio: str = ""
    """Instead of a store: a folder or s3:// URI of audio files in any common format."""
    corpora: Names = Names()
    """Corpora of the store to score; by default all evaluation corpora of the snapshot."""
    snapshot: str = "latest"
    """Name of the snapshot of the store."""
    system: str = ""
    """What tables call this detector; by default the name of the checkpoint and its step."""
    variant: str | None = None
    """Shape of the network, where the checkpoint does not say it."""
    window: str = "whole"
    """Whole utterances, or `window:SECONDS:first|mean|max`; part of the identity of a score."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of the arithmetic; part of the identity of a score. Published EERs are fp32 or tf32."""
    batch_seconds: float = 200.0
    """Padded audio per batch, s."""
    part_seconds: float = 1800.0
    """Audio per part, s: what is sorted by length together, and what a killed run has to do again. Of a bare folder it
    is guessed from the size of the files."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs if the cluster has any."""
    num_workers: int = 0
    """Scoring processes; 0 = as many as the GPUs of the cluster have room for, or one per two cores without GPUs."""
    gpus_per_worker: float = 1.0
    """GPUs of each process; 0.5 puts two on one card, which a small detector needs to keep it busy."""
    tracking_uri: str = ""
    """MLflow tracking server or database; nothing is tracked without one."""
    experiment: str = "bonafide"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        if bool(self.store) == bool(self.audio):
            raise InputError(
                "give either --store, to score corpora of a store, or --audio, to score a bare folder"
            )
        if self.audio and (self.corpora or self.snapshot != "latest"):
            raise InputError(
                "--corpora and --snapshot are of a store; a bare folder, --audio, is scored whole"
            )
        if self.gpus_per_worker <= 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise InputError(
                f"gpus_per_worker is {self.gpus_per_worker}; give a part of one, or a whole number"
            )
        for name in ("batch_seconds", "part_seconds"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")


def main(config: ScoreConfig) -> None:
    """Plan parts, score the missing ones, say what was scored."""
    from pipeline.detector.checkpoint import load_detector
    from pipeline.detector.scoring import WindowPolicy

    out = Folder(config.out)
    policy = str(WindowPolicy.parse(config.window))
    if config.store:
        planned = plan_store(Folder(config.store), config.snapshot, config.corpora)
    else:
        planned = plan_folder(Folder(config.audio), out)
    checkpoint = weights.fetch(config.checkpoint, config.tracking_uri)
    loaded = load_detector(checkpoint.path, config.variant)
    print(loaded.coverage, flush=True)
    identity = {
        "weights_digest": loaded.digest,
        "variant": loaded.variant,
        **planned.identity,
        "policy": policy,
        "precision": config.precision,
        "part_seconds": config.part_seconds,
    }
    claim(out, identity)
    lengths = plan_parts(planned.rows["seconds"].to_numpy(), config.part_seconds)
    if not out.exists(PLAN):
        out.commit(PLAN, tables.to_parquet(planned.rows, lengths))
    system = system_name(config, checkpoint, loaded.metadata)
    parent = training_run(config, loaded.metadata)
    with (
        track(config, system, parent, identity | {"checkpoint": checkpoint.uri}) as tracked,
        ray_session(),
    ):
        shared = weights.share(loaded.detector)
        audio_s = score_parts(planned, lengths, out, shared, choose_pool(config))
        rejects = [*planned.rejects, *rejected(out)]
        count = num_scored(out, len(lengths))
        found = len(planned.rows) + len(planned.rejects)
        assert count + len(rejects) == found, f"{count} scores and {len(rejects)} rejects of {found}"
        step = loaded.metadata.get("step")
        description = identity | {
            "system": system,
            "checkpoint": checkpoint.uri,
            "step": int(step) if step else None,
            "decoder": decoder(config),
            "num_utterances": count,
            "num_rejected": len(rejects),
            "rejected": reasons(rejects),
            "tracking": {"run_id": tracked.run_id, "uri": tracking.without_credentials(config.tracking_uri)},
            "config": to_dict(config),
        }
        publish(out, config, description, rejects)
        log(tracked, planned, description, audio_s)
    report(out, description, tracked)


def choose_pool(config: ScoreConfig) -> Pool:
    """The processes that a connected cluster has room for.

    Raises:
        InputError: GPUs are asked for, and this machine has none.
    """
    num_cpus, num_gpus = num_devices()
    device = config.device if config.device != "auto" else ("cuda" if num_gpus else "cpu")
    if device == "cuda" and not num_gpus and not os.environ.get("RAY_ADDRESS"):
        raise InputError("--device cuda needs a GPU, and Ray finds none on this machine; leave --device out")
    room = int(num_gpus / config.gpus_per_worker) if device == "cuda" else num_cpus // 2
    return Pool(
        size=config.num_workers or max(1, room),
        device=device,
        gpus_each=config.gpus_per_worker,
        precision=config.precision,
        batch_seconds=config.batch_seconds,
        window=config.window,
    )


def track(
    config: ScoreConfig, system: str, parent_run_id: str | None, identity: Mapping[str, Any]
) -> AbstractContextManager[tracking.Run]:
    """One MLflow run for these scores in this folder, however often it takes, below that of the training."""
    text = json.dumps([Folder(config.out).uri, identity], sort_keys=True)
    tags = {"bonafide.job": "score", "bonafide.scoring": hashlib.sha256(text.encode()).hexdigest()[:16]}
    shown = ("weights", "variant", "snapshot", "policy", "precision", "checkpoint")
    facts = {**identity, "weights": identity["weights_digest"]}
    return tracking.run(
        config.tracking_uri,
        config.experiment,
        job="score",
        name=f"score {system}",
        parent_run_id=parent_run_id,
        run_id=tracking.find_run(config.tracking_uri, config.experiment, tags),
        config=to_dict(config),
        tags=tags | {"bonafide.system": system} | {f"bonafide.{name}": facts.get(name) for name in shown},
    )


def training_run(config: ScoreConfig, metadata: Mapping[str, str]) -> str | None:
    """The MLflow run of the training that a detector says it comes from."""
    training = metadata.get("training")
    if training is None:
        return None
    tags = {"bonafide.training": training, "bonafide.job": "train"}
    return tracking.find_run(config.tracking_uri, config.experiment, tags)


def system_name(config: ScoreConfig, checkpoint: Checkpoint, metadata: Mapping[str, str]) -> str:
    """What tables call the detector."""
    if config.system:
        return config.system
    return f"{checkpoint.name} (step {metadata['step']})" if metadata.get("step") else checkpoint.name


def decoder(config: ScoreConfig) -> dict[str, str]:
    """What turned files into samples."""
    if config.store:
        return {"shards": "flac 16 kHz mono"}
    from pipeline.data.audio.load import codec_versions

    return codec_versions() | {"resampler": "soxr_hq"}


def claim(out: Folder, identity: dict[str, Any]) -> None:
    """Make sure that a folder holds scores of one identity only.

    Raises:
        InputError: it holds scores of something else.
    """
    text = json.dumps(identity, indent=1, sort_keys=True).encode()
    if out.create("identity.json", text):
        return
    there = json.loads(out.read("identity.json"))
    differing = [key for key in sorted(identity.keys() | there.keys()) if there.get(key) != identity.get(key)]
    if differing:
        raise InputError(f"{out.uri}: holds scores with another {', '.join(differing)}; choose another --out")


def publish(
    out: Folder, config: ScoreConfig, description: Mapping[str, Any], rejects: list[dict[str, Any]]
) -> None:
    """Write what the scores are of; `scores.json` last, with which they are whole."""
    import pyarrow as pa

    if config.audio:
        out.commit("rejects.parquet", tables.to_parquet(pa.Table.from_pylist(rejects, REJECTS)))
    out.commit("config.toml", tracking.without_credentials(to_toml(config)).encode())
    out.commit("scores.json", json.dumps(description, indent=1, sort_keys=True).encode())


def log(tracked: tracking.Run, planned: Planned, description: Mapping[str, Any], audio_s: float) -> None:
    """Tell MLflow what was scored."""
    tracked.log_dataset(planned.name, planned.digest, source=planned.source, context="score")
    metrics = {
        "scored/utterances": float(description["num_utterances"]),
        "scored/rejected": float(description["num_rejected"]),
    }
    if audio_s:
        metrics["scored/hours"] = audio_s / 3600
    tracked.log_metrics(metrics)
    tracked.describe(note(planned, description))
    tracked.log_text(json.dumps(description, indent=1, sort_keys=True), "scores.json")


def note(planned: Planned, description: Mapping[str, Any]) -> str:
    """What somebody who opens the run wants to know first, in Markdown."""
    corpora = ", ".join(planned.identity.get("corpora", ()))
    facts = {
        "detector": f"`{description['checkpoint']}` ({description['variant']})",
        "of": f"{planned.name}, `{planned.source}`" + (f": {corpora}" if corpora else ""),
        "how": f"{description['policy']} utterances in {description['precision']}",
        "scores": f"`{Folder(description['config']['out']).uri}`",
    }
    rejected = ", ".join(f"{count} {reason}" for reason, count in description["rejected"].items())
    counts = f"**{description['num_utterances']:,} scores**, {description['num_rejected']:,} rejected"
    lines = [f"- **{name}**: {value}" for name, value in facts.items()]
    return "\n".join([counts + (f" ({rejected})" if rejected else ""), "", *lines])


def report(out: Folder, description: Mapping[str, Any], tracked: tracking.Run) -> None:
    """Print what was scored, and what was not."""
    print(f"{description['num_utterances']} scores in {out.uri}")
    for reason, count in description["rejected"].items():
        print(f"  {count} rejected: {reason}")
    if tracked.url:
        print(f"MLflow: {tracked.url}")


if __name__ == "__main__":
    sys.exit(run(main))
