"""What MLflow is told of a training: a note that opens its page, and its best detector as a registered one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import tracking
from pipeline.storage import Folder

if TYPE_CHECKING:
    from jobs.train import Begun, TrainConfig
    from pipeline.data.store.snapshot import Snapshot

DETECTOR = "detector.safetensors"


def registered_name(config: TrainConfig) -> str:
    """The name in the registry; empty if nothing is to be registered."""
    return config.register.replace("{variant}", config.variant)


def opening_note(config: TrainConfig, begun: Begun, snapshot: Snapshot) -> str:
    """What the run is, in Markdown, while nothing has come of it yet."""
    hours = {
        label: sum(corpus.hours.get(label, 0.0) for corpus in snapshot.corpora.values())
        for label in ("bonafide", "spoof")
    }
    optimiser = config.training.optimiser
    facts = {
        "detector": f"{config.variant}, from {config.init or 'random weights'}",
        "data": f"snapshot {snapshot.name} (`{begun.snapshot_digest}`) of `{config.store}`: {len(snapshot.corpora)} "
        f"corpora, {hours['bonafide']:,.1f} h bona fide, {hours['spoof']:,.1f} h spoof",
        "recipe": config.recipe or "every training corpus, held out by its own splits",
        "steps": f"{optimiser.num_steps:,} at up to {optimiser.learning_rate:g}, {config.training.precision}",
        "out": f"`{config.out}`",
    }
    words = "Curves of the validations: artifact `validation.html`. All settings: `config.toml`."
    return "\n".join([*(f"- **{name}**: {value}" for name, value in facts.items()), "", words])


def tell(
    config: TrainConfig, begun: Begun, snapshot: Snapshot, done: Mapping[str, Any], tracked: tracking.Run
) -> None:
    """Say what came of the training: tags, the note, and a registered version."""
    location = Folder(config.out).location(DETECTOR)
    tracked.set_tags(
        {f"bonafide.{name}": done[name] for name in ("weights", "best_step", "best_eer")}
        | {"bonafide.detector": location}
    )
    version = register(config, begun, done)
    result = f"**Validation EER {done['best_eer']:.2%}** at step {done['best_step']:,}: `{location}`"
    if version is not None:
        result += f", registered as `{version.uri}`{' and `@best`' if version.is_best else ''}"
    tracked.describe(f"{result}\n\n{opening_note(config, begun, snapshot)}")


def register(config: TrainConfig, begun: Begun, done: Mapping[str, Any]) -> tracking.Version | None:
    """Register the published detector of a finished training, once; print what it is called."""
    name = registered_name(config)
    if not (config.tracking_uri and name and done["run_id"]):
        return None
    location = Folder(config.out).location(DETECTOR)
    version = tracking.register(
        config.tracking_uri,
        name,
        location,
        run_id=done["run_id"],
        tags={
            "eer": done["best_eer"],
            "step": done["best_step"],
            "variant": config.variant,
            "snapshot": done["snapshot_digest"],
            "validation": validation_digest(begun),
            "training": done["id"],
            "weights": done["weights"],
        },
        description=f"Validation EER {done['best_eer']:.2%} at step {done['best_step']:,}, from {location}",
    )
    if version is not None:
        why = "" if version.is_best else "; @best is another version, better or measured on other data"
        print(f"registered as {version.uri}{why}")
    return version


def validation_digest(begun: Begun) -> str:
    """Equal for trainings that validate with the same utterances, so that their error rates compare."""
    recipe = {
        name: value for name, value in begun.settings["recipe"].items() if name not in ("name", "weights")
    }
    facts = [begun.snapshot_digest, begun.settings["corpora"], recipe]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
