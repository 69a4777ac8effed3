"""Claims about error rates, which hold or fail: for the report, and for the tests of a model.

[[claim]]
metric = "eer"
corpus = "in_the_wild"
system = "xlsr_1b"
below = 0.02                      # also: above; by = "interval" compares the end of the interval

[[claim]]
metric = "eer"
corpus = "in_the_wild"
better = ["xlsr_1b", "mms_300m"]  # the first is better than the second, by more than chance
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.errors import InputError, did_you_mean
from pipeline.evaluation.comparison import SIGNIFICANT
from pipeline.evaluation.formatting import count_clusters, number, span
from pipeline.evaluation.measure import METRICS
from pipeline.evaluation.results import Results

HIGHER_IS_BETTER = ("roc_auc", "accuracy", "precision", "recall", "f1")
By = Literal["point", "interval"]
FIELDS = ("metric", "corpus", "system", "below", "above", "by", "better")


@dataclass(frozen=True)
class Claim:
    """One entry of a file of claims."""

    where: str
    """File and line, for messages."""
    metric: str
    corpus: str
    system: str = ""
    """Empty: the only system, or with `better`, none."""
    below: float | None = None
    above: float | None = None
    by: By = "point"
    """`interval`: the whole interval must be below or above."""
    better: tuple[str, str] | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, with what was measured."""

    claim: Claim
    holds: bool
    text: str
    """One sentence with the measured value, its interval and the number of utterances."""

    def __str__(self) -> str:
        return f"{self.claim.where}: {'holds' if self.holds else 'FAILS'}: {self.text}"


def read_claims(text: str, name: str) -> list[Claim]:
    """Read a file of claims.

    Args:
        text: its content, TOML.
        name: its path, for messages.

    Raises:
        InputError: the text is not TOML, or a claim is incomplete or has an unknown key; the message names the line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}") from error
    entries = document.pop("claim", None)
    if document or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{name}: expected [[claim]] tables and nothing else")
    lines = [
        number
        for number, line in enumerate(text.splitlines(), start=1)
        if re.match(r"\s*\[\[\s*claim\s*\]\]", line)
    ]
    # Claims in one line, as in claim = [{…}], have the line of the file's start.
    positions = lines if len(lines) == len(entries) else [1] * len(entries)
    return [_read(entry, f"{name}:{line}") for entry, line in zip(entries, positions, strict=True)]


def _read(entry: dict[str, Any], where: str) -> Claim:
    for key in entry:
        if key not in FIELDS:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, FIELDS)}")
    for key in ("metric", "corpus"):
        if not isinstance(entry.get(key), str):
            raise InputError(f"{where}: a claim needs a {key}, as text")
    metric = entry["metric"]
    if metric not in METRICS:
        raise InputError(f"{where}: unknown metric {metric!r}{did_you_mean(metric, METRICS)}")
    if "better" in entry:
        return Claim(where, metric, entry["corpus"], better=_read_pair(entry, where))
    return Claim(where, metric, entry["corpus"], *_read_limits(entry, where))


def _read_pair(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """Read the two systems of a claim that one is better."""
    match entry["better"]:
        case [str() as first, str() as second] if not entry.keys() & {"system", "by", "below", "above"}:
            return first, second
    raise InputError(
        f'{where}: better is a pair of systems, as in ["xlsr_1b", "mms_300m"], without system, by, below and above'
    )


def _read_limits(entry: dict[str, Any], where: str) -> tuple[str, float | None, float | None, By]:
    """Read system, lower and upper limit of a claim, and what must be within them."""
    system, by = entry.get("system", ""), entry.get("by", "point")
    if not isinstance(system, str):
        raise InputError(f"{where}: system is {system!r}; it must be a name")
    if by not in get_args(By):
        raise InputError(f"{where}: by is {by!r}; known: {', '.join(get_args(By))}")
    limits = {key: entry[key] for key in ("below", "above") if key in entry}
    if not limits:
        raise InputError(f"{where}: a claim needs below or above, or else better")
    for key, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise InputError(f"{where}: {key} is {limit!r}; it must be a number, such as 0.02 for 2 %")
    return system, limits.get("below"), limits.get("above"), by


def check_claims(claims: Sequence[Claim], results: Results) -> list[Verdict]:
    """Check claims against the measurements.

    Raises:
        InputError: a claim is about a system or corpus that was not measured.
    """
    return [
        _check_better(claim, results) if claim.better else _check_limits(claim, results) for claim in claims
    ]


def _check_limits(claim: Claim, results: Results) -> Verdict:
    system = _known(claim, claim.system or _only(claim, results), results.systems, "system")
    corpus = _known(claim, claim.corpus, results.corpora_and_totals, "corpus")
    measurement = results.measurements.get((system, corpus, "all", "all"))
    if measurement is None:
        raise InputError(f"{claim.where}: {system} has no scores for {corpus}")
    value = measurement.metrics[claim.metric]
    interval = measurement.intervals.get(claim.metric)
    if value is None:
        return Verdict(claim, False, f"{system} has no {claim.metric} on {corpus}, where a class is missing")
    low, high = (value, value) if claim.by == "point" or interval is None else interval
    if claim.by == "interval" and interval is None:
        return Verdict(claim, False, f"{system} has no interval of {claim.metric} on {corpus}")
    holds = (claim.below is None or high < claim.below) and (claim.above is None or low > claim.above)
    limits = " and ".join(
        f"{side} {number(claim.metric, limit)}"
        for side, limit in (("above", claim.above), ("below", claim.below))
        if limit is not None
    )
    which = "the whole interval is" if claim.by == "interval" else "it is"
    text = (
        f"{claim.metric} of {system} on {corpus} is {number(claim.metric, value)}"
        f"{span(claim.metric, interval)}, from {measurement.num_bonafide:,} bona fide and "
        f"{measurement.num_spoof:,} spoof utterances{count_clusters(measurement.clusters)}; "
        f"claimed: {which} {limits}"
    )
    return Verdict(claim, holds, text)


def _check_better(claim: Claim, results: Results) -> Verdict:
    assert claim.better is not None
    first, second = (_known(claim, system, results.systems, "system") for system in claim.better)
    corpus = _known(claim, claim.corpus, results.corpora_and_totals, "corpus")
    for comparison in results.comparisons:
        if comparison.corpus == corpus and {comparison.first, comparison.second} == {first, second}:
            break
    else:
        raise InputError(
            f"{claim.where}: {first} and {second} share no utterances of both classes in {corpus}"
        )
    difference = comparison.differences.get(claim.metric)
    if difference is None:
        return Verdict(
            claim, False, f"{first} and {second} cannot be told apart on {corpus}: {comparison.in_words()}"
        )
    sign = 1 if comparison.first == first else -1
    is_better = sign * difference.value < 0
    if claim.metric in HIGHER_IS_BETTER:
        is_better = sign * difference.value > 0
    low, high = sorted(sign * end for end in difference.interval)
    text = (
        f"{claim.metric} of {first} minus that of {second} on {corpus} is "
        f"{number(claim.metric, sign * difference.value)}{span(claim.metric, (low, high))}, p = "
        f"{difference.p_value:.3f}, from {comparison.num_bonafide:,} bona fide and {comparison.num_spoof:,} spoof "
        f"utterances of {comparison.num_clusters:,} clusters; claimed: {first} is better"
    )
    return Verdict(claim, is_better and difference.p_value < SIGNIFICANT, text)


def _only(claim: Claim, results: Results) -> str:
    if len(results.systems) > 1:
        raise InputError(
            f"{claim.where}: there are {len(results.systems)} systems; name one with `system = …`"
        )
    return results.systems[0]


def _known(claim: Claim, name: str, known: Sequence[str], kind: str) -> str:
    if name not in known:
        raise InputError(f"{claim.where}: {kind} {name!r} was not measured{did_you_mean(name, known)}")
    return name
