"""Score trials: do two sets of utterances come from one system?

The score is the cosine of the means of both sets. Its likelihood ratio is calibrated by sets of the same sizes from the
gallery, of systems that the space has not seen and of different speakers where a system has several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics.eer import eer_of
from pipeline.metrics.neighbours import unit_vectors
from pipeline.metrics.rates import cllr_of, roc_auc_of
from pipeline.metrics.trials import operating_points, sort_trials
from pipeline.sampling import hash_texts
from pipeline.tracing.likelihood import LikelihoodMap, fit_likelihood
from pipeline.tracing.names import Names
from pipeline.tracing.results import TrialRates, Verification
from pipeline.tracing.sample import Sample
from pipeline.tracing.trials import LIMIT, STOPA_TARGETS, SYSTEM, Trials

# T: trials, S: sets of utterances, D: components.

MAX_SET = 64
"""Sets of more utterances are calibrated like sets of so many: their means hardly differ."""

NUM_DRAWN = 1000
"""Trials of one system, and as many of two, that calibrate a pair of sizes."""

BLOCK_TRIALS = 2**20
"""Trials that are scored at once."""


class HeldOut(NamedTuple):
    """Utterances of the gallery in spaces that have not seen their systems."""

    units: NDArray[np.float32]
    """[G, D]; only those of one group are in the same space."""
    groups: NDArray[np.int64]
    """[G] number of the group of systems that its space has not seen; −1 where there is no such space."""
    systems: NDArray[np.int64]
    clusters: NDArray[np.int64]


class Sets(NamedTuple):
    """The sets of utterances that trials name."""

    means: NDArray[np.float32]
    """[S, D] direction of the mean of each; 0 for a set without utterances."""
    sizes: NDArray[np.int64]
    """[S]"""
    members: NDArray[np.int64]
    """[sum of sizes] number of each utterance, one set after the other."""


def verify(
    trials: Trials,
    source: str,
    gallery: Sample,
    gallery_units: NDArray[np.float32],
    new: Sample,
    new_units: NDArray[np.float32],
    held_out: HeldOut,
    seed: int,
) -> Verification:
    """Score trials, and measure them where it is known whether they are of one system.

    Args:
        trials: what to compare.
        source: where they are from, for messages.
        gallery: utterances of named systems.
        gallery_units: [G, D] in the space that is used.
        new: utterances to trace; trials may name them, and those of the gallery.
        new_units: [N, D] in that space.
        held_out: the gallery, for the calibration.
        seed: of the trials that calibrate.

    Raises:
        InputError: no trial has both sets.
    """
    units = np.concatenate((new_units, gallery_units))
    rows = pa.concat_tables((new.rows, gallery.rows))
    systems = gallery.systems.to_pylist()
    first, second = trials.first.dictionary_encode(), trials.second.dictionary_encode()
    members = _Members(rows, len(new), systems)
    sides = [members.sets(each.dictionary.to_pylist(), units) for each in (first, second)]
    codes = [each.indices.to_numpy().astype(np.int64) for each in (first, second)]
    sizes = np.stack([side.sizes[code] for side, code in zip(sides, codes, strict=True)], axis=1)
    is_scored = sizes.min(axis=1) > 0
    if not is_scored.any():
        raise InputError(
            f"{source}: no trial has embeddings of both sides; the first is {trials.first[0].as_py()!r}"
        )
    scores = np.full(len(sizes), np.nan)
    num_overlapping = 0
    for start in range(0, len(sizes), BLOCK_TRIALS):
        block = slice(start, start + BLOCK_TRIALS)
        pair = [side.means[code[block]] for side, code in zip(sides, codes, strict=True)]
        scores[block] = np.einsum("td,td->t", *pair)
        num_overlapping += count_overlapping(sides[0], sides[1], codes[0][block], codes[1][block])
    scores[~is_scored] = np.nan
    llrs = _likelihood_ratios(scores, sizes, is_scored, held_out, seed)
    table = _to_table(trials, scores, llrs, is_scored)
    rates = [
        each
        for target, same in trials.same.items()
        for each in _rates(target, same, scores, llrs, is_scored, trials.attacks, set(systems))
    ]
    return Verification(source, table, rates, int(np.count_nonzero(~is_scored)), num_overlapping)


class _Members:
    """Finds the utterances of a set.

    Args:
        rows: new utterances, then the gallery.
        num_new: number of new utterances.
        systems: of the gallery.
    """

    def __init__(self, rows: pa.Table, num_new: int, systems: Sequence[str]) -> None:
        self._names = Names(rows)
        hashes = hash_texts(rows["key"])
        # An utterance of both folders has one number.
        self._numbers = np.unique(hashes, return_inverse=True)[1]
        order = np.argsort(hashes[num_new:])
        self._by_system: dict[str, list[int]] = {}
        for at in order.tolist():
            self._by_system.setdefault(systems[at], []).append(num_new + at)

    def sets(self, texts: Sequence[str], units: NDArray[np.float32]) -> Sets:
        """The mean and the size of each set."""
        means = np.zeros((len(texts), units.shape[1]), np.float32)
        sizes = np.zeros(len(texts), np.int64)
        is_single = np.array([not text.startswith(SYSTEM) and not text.endswith("/") for text in texts], bool)
        single = np.flatnonzero(is_single)
        found = self._names.find([texts[at] for at in single.tolist()])
        single, found = single[found >= 0], found[found >= 0]
        means[single] = units[found]
        sizes[single] = 1
        members = [np.empty(0, np.int64)] * len(texts)
        for at, row in zip(single.tolist(), found.tolist(), strict=True):
            members[at] = np.array([row])
        for at in np.flatnonzero(~is_single).tolist():
            members[at] = self._several(texts[at])
            if len(members[at]):
                means[at], sizes[at] = units[members[at]].mean(axis=0), len(members[at])
        numbers = self._numbers[np.concatenate([np.empty(0, np.int64), *members])]
        return Sets(unit_vectors(means), sizes, numbers)

    def _several(self, text: str) -> NDArray[np.int64]:
        if not text.startswith(SYSTEM):
            return self._names.below(text)
        name, _, limit = text.removeprefix(SYSTEM).rpartition(LIMIT)
        if not (name and limit.isdecimal()):
            name, limit = text.removeprefix(SYSTEM), ""
        members = self._by_system.get(name, [])
        return np.array(members[: int(limit)] if limit else members, np.int64)


def count_overlapping(
    first: Sets, second: Sets, first_code: NDArray[np.int64], second_code: NDArray[np.int64]
) -> int:
    """Count the trials whose two sets have an utterance in common.

    Args:
        first: sets, some of them on the first side of a trial.
        second: sets, some of them on the second side.
        first_code: [T] position in `first`.
        second_code: [T] position in `second`.
    """
    counts = first.sizes[first_code]
    if counts.sum() > second.sizes[second_code].sum():
        return count_overlapping(second, first, second_code, first_code)
    # Each utterance of the smaller sets is looked up among the utterances of the other set of its trial.
    num = 1 + max(sets.members.max(initial=-1) for sets in (first, second))
    pairs = np.sort(np.repeat(np.arange(len(second.sizes)), second.sizes) * num + second.members)
    trial = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(first.sizes) - first.sizes
    within = np.arange(len(trial)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = second_code[trial] * num + first.members[starts[first_code[trial]] + within]
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return np.unique(trial[pairs[at] == wanted]).size


def _likelihood_ratios(
    scores: NDArray[np.float64],
    sizes: NDArray[np.int64],
    is_scored: NDArray[np.bool_],
    held_out: HeldOut,
    seed: int,
) -> NDArray[np.float64] | None:
    """Map scores to likelihood ratios, by the sizes of their sets; None if the gallery cannot calibrate any."""
    llrs = np.full(scores.size, np.nan)
    buckets = 2 ** np.floor(np.log2(np.clip(sizes, 1, MAX_SET))).astype(np.int64)
    buckets.sort(axis=1)  # the order of the sets does not matter
    for pair in np.unique(buckets[is_scored], axis=0):
        own = is_scored & (buckets == pair).all(axis=1)
        fitted = calibrate(held_out, int(pair[0]), int(pair[1]), seed)
        if fitted is not None:
            llrs[own] = fitted.apply(scores[own])
    return llrs if np.isfinite(llrs).any() else None


def calibrate(held_out: HeldOut, first_size: int, second_size: int, seed: int) -> LikelihoodMap | None:
    """Fit the likelihood ratio of a cosine for two sizes of sets; None if the gallery has too few systems for it."""
    rng = np.random.default_rng([seed, first_size, second_size])
    groups = [
        group
        for group in np.unique(held_out.groups[held_out.groups >= 0]).tolist()
        if np.unique(held_out.systems[held_out.groups == group]).size > 1
    ]
    if not groups:
        return None
    drawn: dict[bool, list[float]] = {True: [], False: []}
    for group in groups:
        rows = np.flatnonzero(held_out.groups == group)
        systems = np.unique(held_out.systems[rows])
        for is_same in (True, False):
            for _ in range(NUM_DRAWN // len(groups)):
                pair = rng.choice(systems, 1 if is_same else 2, replace=False)
                halves = _halves(held_out, rows, int(pair[0]), int(pair[-1]), rng)
                means = [
                    held_out.units[rng.choice(half, min(size, half.size), replace=False)].mean(axis=0)
                    for half, size in zip(halves, (first_size, second_size), strict=True)
                    if half.size
                ]
                if len(means) == len(halves):
                    drawn[is_same].append(float(np.prod(unit_vectors(np.stack(means)), axis=0).sum()))
    return fit_likelihood(np.array(drawn[True]), np.array(drawn[False])).map


def _halves(
    held_out: HeldOut, rows: NDArray[np.int64], first: int, second: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Utterances of two systems, or of one, from different speakers if they have several."""
    own, other = (rows[held_out.systems[rows] == system] for system in (first, second))
    clusters = np.unique(held_out.clusters[np.concatenate((own, other))])
    is_first = np.isin(held_out.clusters, rng.permutation(clusters)[: clusters.size // 2])
    halves = own[is_first[own]], other[~is_first[other]]
    if all(half.size for half in halves):
        return halves
    if first != second:
        return own, other
    shuffled = rng.permutation(own)
    return shuffled[: own.size // 2], shuffled[own.size // 2 :]


def _to_table(
    trials: Trials,
    scores: NDArray[np.float64],
    llrs: NDArray[np.float64] | None,
    is_scored: NDArray[np.bool_],
) -> pa.Table:
    has_llr = is_scored if llrs is None else is_scored & np.isfinite(llrs)
    columns = {
        "first": trials.first,
        "second": trials.second,
        "score": pa.array(scores, pa.float32(), mask=~is_scored),
        "llr": pa.nulls(len(scores), pa.float32())
        if llrs is None
        else pa.array(llrs, pa.float32(), mask=~has_llr),
    }
    if trials.attacks is not None:
        columns["attack"] = trials.attacks
    return pa.table(columns | {f"same_{target}": same for target, same in trials.same.items()})


def _rates(
    target: str,
    same: pa.Array,
    scores: NDArray[np.float64],
    llrs: NDArray[np.float64] | None,
    is_scored: NDArray[np.bool_],
    attacks: pa.Array | None,
    known: set[str],
) -> list[TrialRates]:
    """Measure all trials; with attacks also those of known ones, and those of unknown ones with all targets."""
    usable = is_scored & same.is_valid().to_numpy(zero_copy_only=False)
    is_same = same.fill_null(False).to_numpy(zero_copy_only=False)
    if not usable.any():
        return []
    chosen = {"all": usable}
    if attacks is not None and target in STOPA_TARGETS.values():
        is_known = np.isin(attacks.to_numpy(zero_copy_only=False).astype(str), sorted(known))
        chosen |= {"known": usable & is_known, "unknown": usable & (~is_known | is_same)}
    return [_rate(target, group, scores, llrs, rows, is_same) for group, rows in chosen.items() if rows.any()]


def _rate(
    target: str,
    group: str,
    scores: NDArray[np.float64],
    llrs: NDArray[np.float64] | None,
    rows: NDArray[np.bool_],
    is_same: NDArray[np.bool_],
) -> TrialRates:
    same, different = rows & is_same, rows & ~is_same
    counts = int(same.sum()), int(different.sum())
    if not all(counts):
        return TrialRates(target, group, *counts, None, None, None)
    trials = sort_trials(scores[same], scores[different])
    cllr = None
    if llrs is not None and np.isfinite(llrs[rows]).all():
        cllr = cllr_of(sort_trials(llrs[same], llrs[different]))
    return TrialRates(target, group, *counts, eer_of(trials).eer, roc_auc_of(operating_points(trials)), cllr)
