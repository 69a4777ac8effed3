"""What a reader must know before trusting a comparison with a reference, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow.compute as pc

from pipeline.drift.results import SUBJECTS, Part, Results
from pipeline.drift.sample import LABELS, GroupCount
from pipeline.evaluation.concerns import FEW_CLUSTERS, format_value
from pipeline.evaluation.scores import PROTOCOL

MIX_CHANGE = 0.05
"""A change of the share of spoof utterances that is worth a sentence."""


def concerns(results: Results) -> list[str]:
    """List what limits the comparison, and what else has changed."""
    return [
        *_labels(results),
        *_recording(results),
        *_samples(results),
        *(sentence for part in results.parts for sentence in _part(part, results)),
    ]


def share_of_spoof(counts: Sequence[GroupCount]) -> float | None:
    """The share of spoof among the labelled utterances; None if there are none."""
    by_label = {label: sum(each.number for each in counts if each.label == label) for label in LABELS}
    total = sum(by_label.values())
    return by_label["spoof"] / total if total else None


def _labels(results: Results) -> Iterator[str]:
    if not results.are_labelled:
        unlabelled = "The new utterances have" if not results.new.has_labels else "The reference has"
        yield (
            f"{unlabelled} no labels, so all utterances are compared at once. A change in how many of them are spoofs "
            "then looks like drift, and cannot be told from it."
        )
        return
    for words, sample in (("of the reference", results.reference.sample), ("new", results.new)):
        missing = sample.rows["label"].null_count
        if missing:
            yield f"{missing:,} utterances {words} have no label, and are left out."
    before, after = share_of_spoof(results.reference.counts), share_of_spoof(results.new_counts)
    if before is not None and after is not None and abs(after - before) > MIX_CHANGE:
        yield (
            f"The class mix has changed: {100 * before:.1f} % of the reference are spoofs, and {100 * after:.1f} % of "
            "the new utterances. That is not counted as drift, because each class is compared with its own."
        )


def _recording(results: Results) -> Iterator[str]:
    for part, distance in results.recording_changes:
        old, new = (float(pc.quantile(each)[0].as_py()) for each in part.values[distance.subject])
        unit = "dB" if distance.subject == "level_dbfs" else "s"
        yield (
            f"The {SUBJECTS[distance.subject]} of {part.name} has changed: the median was {old:.1f} {unit}, and is "
            f"{new:.1f} {unit}. Another microphone, gain, channel or cut changes embeddings as well, so do not take "
            "this for a new generator before you have ruled that out."
        )


def _samples(results: Results) -> Iterator[str]:
    reference, new = results.reference, results.new
    num_shared = pc.sum(pc.is_in(new.rows["key"], value_set=reference.sample.rows["key"])).as_py() or 0
    if num_shared:
        yield f"{num_shared:,} utterances are in the reference and new, so distances are too small."
    old, other = (format_value(sample.identity.get("decoder")) for sample in (reference.sample, new))
    if old != other:
        yield f"The reference and the new scores differ in {PROTOCOL['decoder']}: {old} and {other}."
    num_rejected = new.identity.get("num_rejected")
    if num_rejected:
        yield f"{num_rejected:,} new utterances could not be scored, and are left out."
    scored = {
        "of the reference": (reference.num_known, reference.counts),
        "of the new utterances": (len(new), results.new_counts),
    }
    for words, (num_known, counts) in scored.items():
        total = sum(count.number for count in counts)
        if num_known < total:
            yield (
                f"Only {num_known:,} of {total:,} {words} have an embedding. If `score --embeddings` was given a "
                "number, rare attacks have a larger share of the embeddings than of the scores; leave it out."
            )


def _part(part: Part, results: Results) -> Iterator[str]:
    if part.problem:
        yield f"Nothing is said about {part.name}: {part.problem}."
        return
    old, new = part.clusters
    if _has_speakers(old) != _has_speakers(new) and results.reference.clusters != "utterance":
        stated = "reference" if _has_speakers(old) else "new utterances"
        yield (
            f"{part.name}: only the {stated} state speakers or source files. One utterance of each is compared, as if "
            "all others were of different speakers; a reference fitted with --clusters utterance compares all, and "
            "takes every utterance for independent."
        )
    elif min(sum(old.values()), sum(new.values())) < FEW_CLUSTERS:
        numbers = f"{sum(old.values())} of the reference, {sum(new.values())} new"
        yield f"{part.name}: there are few speakers or source files ({numbers}), so p is rough."
    num_tests = sum(not each.problem for each in results.parts)
    if part.smallest_p_value * num_tests >= results.settings.alarm:
        yield (
            f"{part.name}: with so few speakers or source files, p cannot be below {part.smallest_p_value:.3g}, so "
            "there is no alarm whatever happens."
        )


def _has_speakers(kinds: Mapping[str, int]) -> bool:
    return any(kind != "utterance" for kind in kinds)
