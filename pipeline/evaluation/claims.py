"""Claims about error rates, which hold or fail: for the report, and for the tests of a model.

[[claim]]
metric = "eer"
corpus = "in_the_wild"
system = "xlsr_1b"
below = 0.02                      # also: above; by = "interval" compares the end of the interval

[[claim]]
metric = "eer"
corpus = "in_the_wild"
system = "xlsr_1b"
published = 0.0135                # holds if the value is within 0.001 of it
within = 0.001

[[claim]]
metric = "eer"
corpus = "in_the_wild"
better = ["xlsr_1b", "mms_300m"]  # the first is better than the second, by more than chance

[[claim]]
metric = "range_eer"              # also the other rates of "Over time", where frames and regions are known
corpus = "partialspoof"
below = 0.2
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pipeline.data.corpora.manifest import MANIFESTS
from pipeline.errors import InputError, did_you_mean
from pipeline.evaluation.comparison import SIGNIFICANT
from pipeline.evaluation.formatting import NON_SPEECH, count_clusters, format_p_value, number, span
from pipeline.evaluation.measure import MEAN, METRICS, POOLED
from pipeline.evaluation.over_time import GROUP, SHARES, key_of
from pipeline.evaluation.results import Results
from pipeline.fields import Reader, local_path
from pipeline.metrics.bootstrap import ALL

HIGHER_IS_BETTER = ("roc_auc", "accuracy", "precision", "recall", "f1")
By = Literal["point", "interval"]
FIELDS = ("metric", "corpus", "system", "below", "above", "by", "published", "within", "better")
CLAIMS = MANIFESTS / "claims"
"""Claims that ship with bonafide: the published error rates of detectors."""


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
    published: float | None = None
    within: float = 0.0
    """How far the value may be from the published one."""
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


def _claims_name(text: str) -> str:
    """Read the name of a file of claims that ships with bonafide, or the path of one, which becomes absolute."""
    name = local_path(text) if text.endswith(".toml") else text
    load_claims(name)
    return name


ClaimsName = Annotated[str, Reader(_claims_name, "a name or a TOML file")]
"""Type of a flag: claims that can be loaded."""


def load_claims(name: str) -> list[Claim]:
    """Load claims by their name in `manifests/claims`, or by the path of a TOML file.

    Raises:
        InputError: there is no such file, or it is not a file of claims.
    """
    path = Path(name) if name.endswith(".toml") else CLAIMS / f"{name}.toml"
    try:
        return read_claims(path.read_text(), str(path))
    except FileNotFoundError as error:
        known = sorted(each.stem for each in CLAIMS.glob("*.toml"))
        hint = "" if name.endswith(".toml") else did_you_mean(name, known)
        raise InputError(f"{name}: no such file of claims{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read: {error}") from error


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
        if re.match(r"\s*(\[\[\s*claim\s*\]\]|\{)", line)
    ]
    # Where claims do not begin lines, as in claim = [{…}, {…}], none has a line of its own.
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
    if metric not in (*METRICS, *SHARES):
        raise InputError(f"{where}: unknown metric {metric!r}{did_you_mean(metric, (*METRICS, *SHARES))}")
    if metric in SHARES and entry["corpus"] in (MEAN, POOLED):
        raise InputError(
            f"{where}: {metric} is measured for single corpora; name one instead of {entry['corpus']}"
        )
    if "better" in entry:
        if metric not in ALL:
            raise InputError(f"{where}: systems are not compared by {metric}; known: {', '.join(ALL)}")
        return Claim(where, metric, entry["corpus"], better=_read_pair(entry, where))
    system = entry.get("system", "")
    if not isinstance(system, str):
        raise InputError(f"{where}: system is {system!r}; it must be a name")
    if "published" in entry:
        return Claim(where, metric, entry["corpus"], system, **_read_published(entry, where))
    return Claim(where, metric, entry["corpus"], system, **_read_limits(entry, where))


def _read_pair(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """Read the two systems of a claim that one is better."""
    match entry["better"]:
        case [str() as first, str() as second] if not entry.keys() & {"system", "by", "below", "above"}:
            return first, second
    raise InputError(
        f'{where}: better is a pair of systems, as in ["xlsr_1b", "mms_300m"], without system, by, below and above'
    )


def _read_limits(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """Read the lower and the upper limit of a claim, and what must be within them."""
    by = entry.get("by", "point")
    if by not in get_args(By):
        raise InputError(f"{where}: by is {by!r}; known: {', '.join(get_args(By))}")
    limits = [key for key in ("below", "above") if key in entry]
    if not limits:
        raise InputError(f"{where}: a claim needs below or above, published, or else better")
    return {key: _read_number(entry, key, where) for key in limits} | {"by": by}


def _read_published(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """Read a published value and how far from it the measured one may be."""
    if not entry.get("system") or "within" not in entry or entry.keys() & {"below", "above", "by"}:
        raise InputError(f"{where}: published needs a system and within, and no below, above and by")
    return {key: _read_number(entry, key, where) for key in ("published", "within")}


def _read_number(entry: dict[str, Any], key: str, where: str) -> float:
    number = entry[key]
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{where}: {key} is {number!r}; it must be a number, such as 0.02 for 2 %")
    return float(number)


def check_claims(claims: Sequence[Claim], results: Results) -> list[Verdict]:
    """Check claims against the measurements; published values of what was not measured are left out.

    Raises:
        InputError: a claim is about a system or corpus that was not measured; or all published values are.
    """
    verdicts = []
    for claim in claims:
        if claim.better is not None:
            verdicts.append(_check_better(claim, results))
        elif claim.published is None or (claim.system, claim.corpus, "all", "all") in results.measurements:
            verdicts.append(_check_value(claim, results))
    if claims and not verdicts:
        raise InputError(
            f"{claims[0].where}: no system and corpus of these claims was measured; name systems with "
            f"`bonafide score --system`, as in {claims[0].system}"
        )
    return verdicts


def _check_value(claim: Claim, results: Results) -> Verdict:
    system = _known(claim, claim.system or _only(claim, results), results.systems, "system")
    corpus = _known(claim, claim.corpus, results.corpora_and_totals, "corpus")
    measurement = results.measurements.get((system, corpus, "all", "all"))
    if measurement is None:
        raise InputError(f"{claim.where}: {system} has no scores for {corpus}")
    place = f"{system} on {corpus}"
    if claim.metric in SHARES:
        non_speech = results.settings.non_speech
        measurement = results.measurements.get((system, corpus, GROUP, key_of(non_speech)))
        if measurement is None:
            reason = _why_not_over_time(system, results)
            return Verdict(claim, False, f"{system} has no {claim.metric} on {corpus}: {reason}")
        place += f", non-speech {NON_SPEECH[non_speech]},"
    value, interval = measurement.metrics[claim.metric], measurement.intervals.get(claim.metric)
    if value is None:
        return Verdict(claim, False, f"{system} has no {claim.metric} on {corpus}")
    if claim.by == "interval" and interval is None:
        return Verdict(claim, False, f"{system} has no interval of {claim.metric} on {corpus}")
    low, high = interval if claim.by == "interval" and interval is not None else (value, value)
    text = (
        f"{claim.metric} of {place} is {number(claim.metric, value)}"
        f"{span(claim.metric, interval)}, from {measurement.num_bonafide:,} bona fide and "
        f"{measurement.num_spoof:,} spoof utterances{count_clusters(measurement.clusters)}; "
    )
    if claim.published is not None:
        holds = abs(value - claim.published) <= claim.within + 1e-12
        published, within = (number(claim.metric, each) for each in (claim.published, claim.within))
        return Verdict(claim, holds, f"{text}published: {published}, to be met within {within}")
    holds = (claim.below is None or high < claim.below) and (claim.above is None or low > claim.above)
    limits = " and ".join(
        f"{side} {number(claim.metric, limit)}"
        for side, limit in (("above", claim.above), ("below", claim.below))
        if limit is not None
    )
    which = "the whole interval is" if claim.by == "interval" else "it is"
    return Verdict(claim, holds, f"{text}claimed: {which} {limits}")


def _why_not_over_time(system: str, results: Results) -> str:
    """Why a system has no measurements over time of a corpus that it scored."""
    if results.over_time is None or system not in results.over_time.thresholds:
        return "its scores have no frames; score with --frames"
    return "no regions of its utterances are known"


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
        f"{number(claim.metric, sign * difference.value)}{span(claim.metric, (low, high))}, p value "
        f"{format_p_value(difference.p_value)}, from {comparison.num_bonafide:,} bona fide and "
        f"{comparison.num_spoof:,} spoof utterances; claimed: {first} is better"
    )
    if not comparison.is_same_protocol:
        return Verdict(claim, False, f"{text}; but they were scored by different protocols")
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
