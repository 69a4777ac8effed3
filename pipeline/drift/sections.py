"""The sections of a page about drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.drift import layout
from pipeline.drift.reference import KEPT
from pipeline.drift.results import EMBEDDING, MEASURES, RECORDING, SUBJECTS, Distance, Group, Part, Results
from pipeline.drift.sample import GroupCount
from pipeline.evaluation.concerns import format_value
from pipeline.evaluation.formatting import count_clusters, format_p_value
from pipeline.report import Block, Cell, Figure, Section, Table, Text, Value
from pipeline.report.charts import Bar, bar_chart, histogram, linear_axis

NUM_COMPONENTS, NUM_GROUPS, NUM_BARS = 20, 60, 24
"""Maximum numbers of components, of rows of a table of groups, and of groups in a chart; the JSON file has all."""

UNITS = {"score": "score", "seconds": "duration (s)", "level_dbfs": "level (dB relative to full scale)"}
"""Subject → title of the axis of its values."""

DISTANCES = (
    "“By chance” is the mean over permutations, in which whole speakers or source files change sides: what the "
    "distance is between utterances of one distribution. p is the share of permutations that are at least as far apart "
    "as the data. Only the marked row decides about the alarm. The others are not adjusted for their number: look at "
    "them, do not count them. Embeddings are compared in the first principal components of the reference, each scaled "
    "to a standard deviation of 1, which some utterances of the reference define that are not compared. Wasserstein "
    "distances are in standard deviations of the reference: how far values must move on average. MMD² compares all "
    "moments at once, Fréchet means and covariances, Kolmogorov–Smirnov shares below a threshold."
)

GROUPS = (
    "The distance (MMD, 0 to about 1) of each corpus and attack of the new utterances to the labels and to the groups "
    "of the reference. A group that is near a known one is known. A spoof far from everything is an unknown spoof, and "
    "if it is nearest to bona fide speech, the detector may take it for that. Bona fide speech far from everything is "
    "an unknown room, channel, language or speaker; if all other groups have moved with it, suspect the recording. A "
    "single attack differs from a class of many even if it is one of them, so the p that tells known from unknown is "
    "that of the nearest group; with few utterances there, it cannot be small. Neither is adjusted for the number of "
    "groups, and a dash means a single speaker. Groups with fewer than 10 utterances are left out."
)

MEANING = (
    "This page says whether new utterances differ from those of the reference in what the detector sees. It cannot "
    "say whether the detector errs on them: a change need not matter, and errors need no change. That needs labels, "
    "and `bonafide evaluate`.",
    "It cannot say why. Gain, codec, microphone, room, language, speakers and the length of the cut move embeddings as "
    "a new generator does. So look at duration and level first, and at which groups have moved: all of them with bona "
    "fide speech point to the recording, one attack alone to a generator.",
    "Without drift, the alarm is raised in at most the chosen share of runs, so a daily job with 0.01 raises it up to "
    "four times a year. No alarm does not mean no drift: few utterances or speakers cannot show small changes.",
)


def distances_section(results: Results) -> Section:
    """Show all distances of each part with p."""
    blocks: list[Block] = []
    for part in results.parts:
        if not part.problem:
            rows: list[list[Value]] = [
                [
                    f"{SUBJECTS[each.subject]}: {MEASURES[each.measure]}"
                    + (" (decides)" if _decides(each, results) else ""),
                    Cell(_digits(each.value), is_best=_decides(each, results)),
                    Cell(_digits(each.chance)),
                    Cell(
                        format_p_value(each.p_value),
                        is_warning=each.p_value < results.settings.alarm,
                    ),
                ]
                for each in part.distances
            ]
            blocks.append(Table(["distance", "now", "by chance", "p"], rows, _caption(part)))
    for part in results.parts:
        if part.problem:
            blocks.append(Text(f"{part.name}: {part.problem}."))
        blocks += [Text(f"{part.name}: {sentence}.") for sentence in part.omitted]
    return Section("Distances", [*blocks, Text(DISTANCES)])


def _decides(distance: Distance, results: Results) -> bool:
    return (distance.subject, distance.measure) == (results.test.subject, results.test.measure)


def _caption(part: Part) -> str:
    (num_old, num_new), (old, new) = part.num_compared, part.clusters
    return (
        f"{part.name}: {num_old:,} utterances{count_clusters(old)} of the reference, "
        f"{num_new:,} new ones{count_clusters(new)}"
    )


def _digits(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # adding 0 turns −0 into 0


def mix_section(results: Results) -> Section:
    """Show the shares of labels and groups on both sides."""
    old, new = results.reference.counts, results.new_counts
    tables: list[Block] = []
    if results.are_labelled:
        pairs = [_count_by_label(counts) for counts in (old, new)]
        names = {"bonafide": "bona fide", "spoof": "spoof"}
        rows = _shares({names[label]: tuple(pair[label] for pair in pairs) for label in names})
        tables.append(Table(["class", "reference", "new"], rows, "Classes"))
    by_group = [{count.name: count.number for count in counts} for counts in (old, new)]
    groups = {name: tuple(each.get(name, 0) for each in by_group) for name in sorted(set().union(*by_group))}
    rows = sorted(_shares(groups), key=lambda row: -max(groups[str(row[0])]))
    tables.append(Table(["corpus, class, attack", "reference", "new"], rows[:NUM_GROUPS], "Groups"))
    if len(rows) > NUM_GROUPS:
        tables.append(
            Text(f"{len(rows) - NUM_GROUPS} smaller groups are omitted; {layout.DRIFT_JSON} has all of them.")
        )
    explanation = (
        "Bona fide and spoof are compared separately, so a change in their shares alone is no drift. A change in the "
        "shares of corpora and attacks is, because it changes what speech of a class is like."
        if results.are_labelled
        else "Without labels on both sides, a change in the shares of bona fide and spoof cannot be told from drift."
    )
    return Section("Class mix", [*tables, Text(explanation)])


def _count_by_label(counts: Sequence[GroupCount]) -> dict[str, int]:
    return {
        label: sum(each.number for each in counts if each.label == label) for label in ("bonafide", "spoof")
    }


def _shares(pairs: dict[str, tuple[int, ...]]) -> list[list[Value]]:
    totals = [max(1, sum(column)) for column in zip(*pairs.values(), strict=True)]
    return [
        [
            name,
            *(
                Cell(f"{number:,}", f"{100 * number / total:.1f} %")
                for number, total in zip(pair, totals, strict=True)
            ),
        ]
        for name, pair in pairs.items()
    ]


def values_section(results: Results) -> Section:
    """Show the distributions of scores, and which components of the embedding have moved."""
    blocks: list[Block] = [_histogram(part, "score") for part in results.parts if "score" in part.values]
    for part in results.parts:
        if part.by_component:
            order = np.argsort(part.by_component)[::-1][:NUM_COMPONENTS]
            bars = [Bar(part.by_component[i], f"{part.by_component[i]:.2f}") for i in order]
            axis = linear_axis(
                "Wasserstein distance, in standard deviations", 0, max(0.1, max(part.by_component))
            )
            labels = [f"component {i + 1}" for i in order]
            blocks.append(bar_chart(f"{part.name}: what has moved most", labels, [("moved", bars)], axis))
    space = results.reference.space
    if space is not None:
        blocks.append(
            Text(
                f"The {space.num_components} components have {100 * space.share:.1f} % of the variance of the "
                f"embeddings (layer {results.reference.sample.layer}) of the {space.num_rows:,} utterances of the "
                "reference that define them; component 1 has the most. Each differs a little by chance."
            )
        )
    return Section("Scores and components", blocks)


def _histogram(part: Part, subject: str) -> Figure:
    old, new = part.values[subject]
    title = f"{part.name}: {SUBJECTS[subject]}"
    return histogram(title, [("reference", old, 1), ("new", new, 2)], UNITS[subject])


def groups_section(results: Results) -> list[Section]:
    """Show where each group of the new utterances is, the farthest first; nothing without embeddings."""
    groups = results.groups
    if not groups:
        return []
    shown = groups[:NUM_BARS]
    series = [
        ("to bona fide of the reference", [_bar(group.to_bonafide) for group in shown]),
        ("to spoof of the reference", [_bar(group.to_spoof) for group in shown]),
        ("to its nearest group", [_bar(group.distance) for group in shown]),
    ]
    known = [(name, bars) for name, bars in series if any(bar is not None for bar in bars)]
    farthest = max(bar.value for _, bars in known for bar in bars if bar is not None)
    chart = bar_chart(
        "Distance of each group", [group.name for group in shown], known, linear_axis("MMD", 0, farthest or 1)
    )
    rows: list[list[Value]] = [_group(group, results) for group in groups[:NUM_GROUPS]]
    columns = [
        "new group",
        "utterances",
        "to bona fide",
        "to spoof",
        "p, nearer class",
        "to the nearest",
        "p, nearest group",
        "nearest group",
    ]
    blocks: list[Block] = [Text(GROUPS), chart, Table(columns, rows)]
    if len(groups) > NUM_GROUPS:
        blocks.append(
            Text(
                f"{len(groups) - NUM_GROUPS} nearer groups are omitted; {layout.DRIFT_JSON} has all of them."
            )
        )
    return [Section("Corpora and attacks", blocks)]


def _group(group: Group, results: Results) -> list[Value]:
    return [
        group.name,
        group.num_utterances,
        *(None if each is None else Cell(f"{each:.3f}") for each in (group.to_bonafide, group.to_spoof)),
        Cell(format_p_value(group.class_p_value)),
        Cell(f"{group.distance:.3f}"),
        Cell(
            format_p_value(group.p_value),
            is_warning=group.p_value is not None and group.p_value <= results.settings.alarm,
        ),
        group.nearest,
    ]


def _bar(value: float | None) -> Bar | None:
    return None if value is None else Bar(value, f"{value:.3f}")


def recording_section(results: Results) -> Section:
    """Show duration and level, which say whether the recordings have changed."""
    rows: list[list[Value]] = []
    figures: list[Block] = []
    for part in results.parts:
        for subject in RECORDING:
            moved, shares = part.find(subject, "w1"), part.find(subject, "ks")
            if moved is not None and shares is not None:
                old, new = (float(np.median(values)) for values in part.values[subject])
                has_changed = (part, moved) in results.recording_changes
                rows.append(
                    [
                        f"{part.name}: {SUBJECTS[subject]}",
                        Cell(f"{old:.2f}"),
                        Cell(f"{new:.2f}", is_warning=has_changed),
                        Cell(_digits(moved.value), f"{_digits(moved.chance)} by chance"),
                        Cell(format_p_value(moved.p_value), is_warning=has_changed),
                        Cell(_digits(shares.value)),
                    ]
                )
                figures.append(_histogram(part, subject))
    columns = ["", "median of the reference", "median now", "Wasserstein", "p", "Kolmogorov–Smirnov"]
    verdict = (
        "Marked changes are beyond chance and above the smallest effect. They do not raise the alarm by themselves, "
        "but they may be the reason for one: then the recordings have changed, not the spoofs."
        if results.recording_changes
        else "Neither has changed by more than chance and the smallest effect."
    )
    if not rows:
        return Section("Duration and level", [Text("The scores do not state durations and levels.")])
    return Section("Duration and level", [Table(columns, rows), Text(verdict), *figures])


def meaning_section() -> Section:
    """Say what a drift means and what it does not."""
    return Section("What this can tell", [Text(text) for text in MEANING])


def identities_section(results: Results) -> Section:
    """Show everything that determines the comparison."""
    old, new = results.reference.sample, results.new
    rows: list[list[Value]] = [
        ["scores", old.location, new.location],
        ["system", old.system, new.system],
        ["layer", *(sample.layer or None for sample in (old, new))],
        [f"utterances with {SUBJECTS[EMBEDDING] if old.layer else 'score'}", len(old), len(new)],
    ]
    rows += [
        [name.replace("_", " "), *(format_value(sample.identity.get(name)) for sample in (old, new))]
        for name in KEPT
    ]
    settings = results.settings
    text = (
        f"Alarm below p = {settings.alarm:g} from an effect of {settings.min_effect:g}; "
        f"{settings.num_permutations:,} permutations of clusters ({results.reference.clusters}); at most "
        f"{settings.max_compared:,} utterances of each side and class; seed {settings.seed}."
    )
    return Section("Systems and settings", [Table(["", "reference", "new"], rows), Text(text)])
