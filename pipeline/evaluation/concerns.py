"""What makes error rates meaningless or a comparison unfair, one sentence each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow.compute as pc

from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.formatting import PLURALS
from pipeline.evaluation.measure import Measurement
from pipeline.evaluation.scores import PROTOCOL, ScoreSet
from pipeline.evaluation.utterances import Utterances
from pipeline.metrics import DEFINITIONS, eer_of

MIN_DISTINCT_SHARE = 0.5
"""If a smaller share of the scores differ, they were rounded or saturated."""

SWAPPED_EER = 0.55
"""An EER above this, and above guessing by its whole interval: labels or scores may have the wrong sign."""

FEW_CLUSTERS = 10
"""An interval from fewer speakers or files is only a rough one."""


def concerns(
    score_sets: Sequence[ScoreSet],
    measurements: Mapping[tuple[str, str, str, str], Measurement],
    calibrations: Mapping[str, Calibration],
) -> list[str]:
    """List what a reader of the results must know before trusting or comparing them."""
    sentences = [*itertools.chain.from_iterable(_losses(scores) for scores in score_sets)]
    for scores in score_sets:
        for corpus, utterances in scores.by_corpus.items():
            sentences += _oddities(measurements[scores.system, corpus, "all", "all"], utterances)
        if scores.system in calibrations:
            sentences += _optimism(scores, calibrations[scores.system])
    first, *others = score_sets
    for other in others:
        sentences += _differences(first, other)
    return sentences


def _losses(scores: ScoreSet) -> Iterator[str]:
    num_rejected = scores.identity.get("num_rejected")
    if num_rejected:
        yield f"{scores.system}: {num_rejected:,} utterances could not be scored and are left out."
    if scores.num_unlabelled:
        yield f"{scores.system}: {scores.num_unlabelled:,} utterances have no label and are left out."


def _optimism(scores: ScoreSet, calibration: Calibration) -> Iterator[str]:
    """Name the corpora whose calibrated metrics are too good."""
    seen = [corpus for corpus in scores.corpora if corpus in calibration.corpora]
    if seen:
        yield (
            f"{scores.system} was calibrated on utterances of {', '.join(seen)}; if they are those measured here, its "
            "calibrated metrics are too good."
        )


def _oddities(measurement: Measurement, utterances: Utterances) -> Iterator[str]:
    """Name what is odd about the scores of a corpus."""
    name = f"{measurement.system} on {measurement.corpus}"
    if not measurement.num_bonafide or not measurement.num_spoof:
        missing = "spoof" if measurement.num_bonafide else "bona fide"
        yield f"{name}: there are no {missing} utterances, so there is no EER."
        return
    scores = utterances.scores
    num_distinct = 1 + int(np.count_nonzero(np.diff(scores)))
    if num_distinct == 1:
        yield f"{name}: all scores are equal, so they tell nothing. {_by_definition(utterances)}"
    elif num_distinct < MIN_DISTINCT_SHARE * scores.size:
        yield (
            f"{name}: only {num_distinct:,} of {scores.size:,} scores differ, so they were rounded or saturated; "
            f"score again at full precision. {_by_definition(utterances)}"
        )
    eer, interval = measurement.metrics["eer"], measurement.intervals.get("eer")
    if eer is not None and eer > SWAPPED_EER and (interval is None or interval.low > 0.5):
        yield f"{name}: an EER of {100 * eer:.2f} % is worse than guessing. Are the labels swapped?"
    kinds = [kind for kind in measurement.clusters if kind != "utterance"]
    if kinds and measurement.num_clusters < FEW_CLUSTERS:
        counted = " or ".join(PLURALS[kind] for kind in kinds)
        yield f"{name}: one class has only {measurement.num_clusters} {counted}, so the intervals are rough."


def _by_definition(utterances: Utterances) -> str:
    rates = (
        f"{100 * eer_of(utterances.trials(), definition).eer:.2f} % ({definition})"
        for definition in DEFINITIONS
    )
    return f"The EER depends on its definition: {', '.join(rates)}."


def _differences(first: ScoreSet, other: ScoreSet) -> Iterator[str]:
    """Name what differs between two systems, apart from their detectors."""
    pair = f"{first.system} and {other.system}"
    differing = _differing_corpora(first, other)
    if differing:
        yield f"{pair} scored different utterances: {', '.join(differing)}."
    names = PROTOCOL | {"snapshot": "the snapshot of the store"}
    for field, name in names.items():
        one, two = (format_value(scores.identity.get(field)) for scores in (first, other))
        if one != two:
            yield f"{pair} differ in {name}: {one} and {two}."
    fields = first.differs_in(other)
    digest = first.identity.get("weights_digest")
    if fields and digest is not None and digest == other.identity.get("weights_digest"):
        yield f"{pair} have the same weights, so every difference between them is one of protocol."
    elif "policy" in fields:
        yield (
            f"{pair} must not be ranked: the window alone can more than double an EER. "
            "Score both with the same --window."
        )


def _differing_corpora(first: ScoreSet, other: ScoreSet) -> list[str]:
    """List the corpora in which two systems scored different utterances, with the numbers of utterances."""
    differing = []
    for corpus in sorted({*first.corpora, *other.corpora}):
        uids, other_uids = (
            scores.by_corpus[corpus].uids
            if corpus in scores.by_corpus
            else scores.utterances.uids.slice(0, 0)
            for scores in (first, other)
        )
        num_shared = pc.sum(pc.is_in(uids, value_set=other_uids)).as_py() or 0
        if num_shared != len(uids) or num_shared != len(other_uids):
            differing.append(f"{corpus} ({len(uids):,} and {len(other_uids):,}, {num_shared:,} shared)")
    return differing


def format_value(value: object) -> str:
    """Format a value of the description for display."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
