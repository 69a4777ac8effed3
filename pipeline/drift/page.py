"""A comparison for people: a sentence for the console, and the HTML page."""

from __future__ import annotations

from pipeline.drift.reference import Reference
from pipeline.drift.results import EMBEDDING, MEASURES, SUBJECTS, Results
from pipeline.drift.sections import (
    distances_section,
    groups_section,
    identities_section,
    meaning_section,
    mix_section,
    recording_section,
    values_section,
)
from pipeline.evaluation.formatting import count_clusters, format_p_value
from pipeline.report import Facts, Page, Section, Text


def headline(results: Results) -> str:
    """The verdict in one line: which classes have drifted, with p and the effect."""
    test, settings = results.test, results.settings
    names = {part.label: part.name for part in results.parts}
    effect = f"{test.effect:.3f} {_effect_unit(results)}"
    by = f"{MEASURES[test.measure]} of the {SUBJECTS[test.subject]}"
    if test.alarms:
        drifted = " and ".join(names[label] for label in test.alarms)
        p_value = format_p_value(min(test.p_values[label] for label in test.alarms))
        effect = f"{max(test.effects[label] for label in test.alarms):.3f} {_effect_unit(results)}"
        return f"drift of {drifted}: p {p_value} by {by}, effect {effect}"
    p_value = format_p_value(test.p_value)
    if test.p_value < settings.alarm:
        return (
            f"no alarm: p {p_value} by {by}, but no effect that counts: {effect}, the smallest that does is "
            f"{settings.min_effect:g}"
        )
    return f"no drift beyond chance: p {p_value} by {by}, effect {effect}"


def _effect_unit(results: Results) -> str:
    return "standard deviations" if results.test.subject == EMBEDDING else "of the share of scores"


def describe(reference: Reference) -> list[str]:
    """Describe a reference in a few lines for the console."""
    sample, space = reference.sample, reference.space
    kinds = count_clusters(sample.clusters(reference.clusters).kinds)
    labels = [
        f"{int((sample.texts('label') == label).sum()):,} {name}"
        for label, name in (("bonafide", "bona fide"), ("spoof", "spoof"))
    ]
    lines = [
        f"{sample.system}: {len(sample):,} utterances{kinds} to compare with"
        + (f", {' and '.join(labels)}" if sample.has_labels else ", without labels")
    ]
    if space is None:
        return [*lines, "  no embeddings: scores, durations and levels are compared"]
    return [
        *lines,
        f"  {space.num_components} components of layer {sample.layer} with {100 * space.share:.1f} % of the variance, "
        f"from {space.num_rows:,} other utterances",
    ]


def to_page(results: Results) -> Page:
    """Render the page: verdict, distances, class mix, what has moved, groups, recordings, identities."""
    sentence = headline(results)
    return Page(
        f"Drift of {results.new.system}",
        "Whether new utterances differ from those of a reference.",
        [
            _overview(results, f"{sentence[0].upper()}{sentence[1:]}."),
            distances_section(results),
            mix_section(results),
            *groups_section(results),
            values_section(results),
            recording_section(results),
            meaning_section(),
            identities_section(results),
        ],
    )


def _overview(results: Results, sentence: str) -> Section:
    test = results.test
    compared = [sum(part.num_compared[side] for part in results.parts) for side in (0, 1)]
    adjusted = "adjusted for two classes" if len(test.p_values) == 2 else f"by {MEASURES[test.measure]}"
    facts = [
        ("verdict", "drift" if results.is_alarm else "no alarm", ""),
        ("p", format_p_value(test.p_value), adjusted),
        ("effect", f"{test.effect:.3f}", f"{_effect_unit(results)} beyond chance"),
        ("compared", f"{compared[1]:,}", f"new, and {compared[0]:,} of the reference"),
    ]
    return Section(
        "Result",
        [
            Text(sentence, "warning" if results.is_alarm else "plain"),
            Facts(facts),
            *(Text(warning, "warning") for warning in results.warnings),
        ],
    )
