"""Compare new utterances with a reference: by label, then by group, with one test that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline.drift.concerns import concerns
from pipeline.drift.novelty import compare_groups, groups_of
from pipeline.drift.parts import compare_part
from pipeline.drift.permutations import holm
from pipeline.drift.reference import Reference
from pipeline.drift.results import EMBEDDING, RECORDING, Distance, Part, Results, Settings, Test
from pipeline.drift.sample import LABELS, Sample, count_groups
from pipeline.errors import InputError
from pipeline.progress import Progress


def compare(reference: Reference, new: Sample, scored: pa.Table, settings: Settings) -> Results:
    """Compare new utterances with a reference.

    Args:
        reference: of the same detector, window, precision and layer.
        new: utterances with embeddings if the reference has any.
        scored: the rows of all new utterances with a score.
        settings: how to compare.

    Raises:
        InputError: the scores are of another detector, window, precision or layer; no label has enough utterances.
    """
    reference.check(new)
    old = reference.sample
    are_labelled = old.has_labels and new.has_labels
    labels = tuple(LABELS) if are_labelled else ("",)
    groups = groups_of(new) if reference.space is not None else {}
    with Progress("comparing", len(labels) + len(groups), "group") as progress:
        parts = []
        for label in labels:
            sides = [each.take(each.texts("label") == label) if label else each for each in (old, new)]
            parts.append(compare_part(reference, sides[0], sides[1], label, settings))
            progress.add()
        if all(part.problem for part in parts):
            problems = "; ".join(f"{part.name}: {part.problem}" for part in parts)
            raise InputError(f"{new.location}: cannot be compared with the reference: {problems}")
        compared = compare_groups(reference, new, settings, progress.add) if groups else []
    results = Results(
        reference,
        new,
        count_groups(scored),
        settings,
        parts,
        decide(parts, settings),
        changes_of_recording(parts, settings),
        compared,
        (),
    )
    return replace(results, warnings=concerns(results))


def decide(parts: Sequence[Part], settings: Settings) -> Test:
    """Decide by the primary distance of each part: MMD of embeddings, or without them Kolmogorov–Smirnov of scores."""
    has_embedding = any(part.find(EMBEDDING, "mmd2") for part in parts)
    subject, measure = (EMBEDDING, "mmd2") if has_embedding else ("score", "ks")
    primary = {part.label: each for part in parts if (each := part.find(subject, measure)) is not None}
    adjusted = holm([each.p_value for each in primary.values()])
    p_values = dict(zip(primary, adjusted, strict=True))
    effect_measure = "w1" if has_embedding else "ks"
    effects = {
        part.label: effect.excess
        for part in parts
        if (effect := part.find(subject, effect_measure)) is not None
    }
    alarms = [
        label
        for label, p_value in p_values.items()
        if p_value < settings.alarm and effects[label] >= settings.min_effect
    ]
    return Test(subject, measure, p_values, effects, alarms)


def changes_of_recording(parts: Sequence[Part], settings: Settings) -> list[tuple[Part, Distance]]:
    """The duration and the level of each part, where they have changed by more than chance."""
    found = [
        (part, each)
        for part in parts
        for subject in RECORDING
        if (each := part.find(subject, "w1")) is not None
    ]
    adjusted = holm([each.p_value for _, each in found])
    return [
        pair
        for pair, p_value in zip(found, adjusted, strict=True)
        if p_value < settings.alarm and pair[1].excess >= settings.min_effect
    ]
