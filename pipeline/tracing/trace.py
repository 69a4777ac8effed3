"""Trace utterances: choose a layer in the gallery, calibrate there, then compare the new utterances with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.metrics.components import principal_components
from pipeline.progress import Progress
from pipeline.sampling import hash_texts
from pipeline.tracing.concerns import concerns
from pipeline.tracing.confounding import Speech, confounding_of
from pipeline.tracing.gallery import Resemblance, resemblance
from pipeline.tracing.leave_out import NONE, LeftOut, choose, divide, leave_out
from pipeline.tracing.likelihood import Likelihood, LikelihoodMap, fit_likelihood
from pipeline.tracing.measure import cascade_of, confusion_of, intervals_of, measure
from pipeline.tracing.results import (
    Candidate,
    Rates,
    Results,
    Settings,
    SpaceKind,
    SystemCount,
    Traced,
    Verification,
)
from pipeline.tracing.roles import Roles
from pipeline.tracing.sample import Sample
from pipeline.tracing.space import MAX_COMPONENTS, Sums
from pipeline.tracing.trials import Trials
from pipeline.tracing.verification import HeldOut, verify

MAX_GROUPS = 5
"""Groups of systems that a space has not seen, to calibrate trials."""


@dataclass(frozen=True)
class Choice:
    """The layers and spaces to choose from."""

    layers: Sequence[str]
    """Layers, several of which may be joined by `sample.JOIN`."""
    spaces: Sequence[SpaceKind]


class _Gallery(NamedTuple):
    """A gallery as numbers."""

    sample: Sample
    names: list[str]
    systems: NDArray[np.int64]
    clusters: NDArray[np.int64]
    tried: NDArray[np.int64]
    """Positions of the utterances that are left out, to see how well they are traced."""
    parts: NDArray[np.int64]
    """The part of each of them."""


class _Found(NamedTuple):
    """What one candidate says of all utterances."""

    candidate: Candidate
    left_out: LeftOut
    resemblance: Resemblance
    gallery_units: NDArray[np.float32]
    new_units: NDArray[np.float32]
    components: NDArray[np.float64]


def trace(
    roles: Roles,
    choice: Choice,
    settings: Settings,
    protocol: str = "",
    trials: tuple[Trials, str] | None = None,
) -> Results:
    """Trace the new utterances to the systems of the gallery.

    Args:
        roles: the utterances.
        choice: of more than one layer or space, the best in the gallery is used.
        settings: how to trace.
        protocol: the protocol that decided about roles, for the report.
        trials: sets of utterances to compare, and where they are from.

    Raises:
        InputError: there are no embeddings of a layer; no trial has both sides.
    """
    gallery, new = _number(roles.gallery), roles.new
    true = _true_systems(gallery.names, new)
    candidates, chosen, best = _try_all(gallery, roles, true, choice, settings)
    known_map, problem = _calibrate(best.left_out)
    traced = _judge(new, best.resemblance, known_map)
    known = best.left_out
    results = Results(
        settings=settings,
        gallery=roles.gallery.identity,
        new=new.identity,
        gallery_location=roles.gallery.location,
        new_location=new.location,
        protocol=protocol,
        systems=_count_systems(gallery),
        num_new=_count_new(true, new),
        candidates=candidates,
        chosen=chosen,
        is_given=len(candidates) == 1,
        known_map=known_map,
        known_problem=problem,
        known_scores=(known.known[np.isfinite(known.known)], known.unknown[np.isfinite(known.unknown)]),
        traced=traced,
        intervals=_intervals(true, new, traced, best.candidate.new, settings),
        confusion=confusion_of(gallery.names, traced),
        cascade=cascade_of(true, traced),
        verification=_verify(trials, gallery, new, best, settings),
        num_missing=roles.num_missing,
        num_shared_clusters=_count_shared(gallery, new, true),
        warnings=(),
    )
    return replace(results, warnings=concerns(results))


def _try_all(
    gallery: _Gallery, roles: Roles, true: NDArray[np.int64], choice: Choice, settings: Settings
) -> tuple[list[Candidate], int, _Found]:
    """Try all layers and spaces; returns them, the position of the best one, and what that says."""
    speech = Speech.of(roles.bonafide)
    candidates: list[Candidate] = []
    best, chosen = None, 0
    with Progress("tracing", len(choice.layers) * len(choice.spaces), "candidate") as progress:
        for layer in choice.layers:
            for found in _try_layer(gallery, roles.new, true, speech, layer, choice.spaces, settings):
                if best is None or found.candidate.quality > best.candidate.quality:
                    best, chosen = found, len(candidates)
                candidates.append(found.candidate)
                progress.add()
    assert best is not None, "there is a layer and a space"
    return candidates, chosen, best


def _judge(new: Sample, compared: Resemblance, known_map: LikelihoodMap | None) -> Traced:
    """Say of each new utterance what it resembles, and whether that is a known system."""
    nearest = compared.similarities.max(axis=1).astype(np.float64)
    llr = None if known_map is None else known_map.apply(nearest)
    is_known = np.ones(len(new), bool) if llr is None else llr >= 0
    rows = new.rows.append_column("system", new.systems)
    return Traced(rows, compared.similarities, compared.votes, llr, is_known)


def _intervals(
    true: NDArray[np.int64], new: Sample, traced: Traced, rates: Rates, settings: Settings
) -> dict[str, tuple[float, float]]:
    """The intervals of the rates, over utterances whose system is stated."""
    stated = np.flatnonzero(new.systems.is_valid().to_numpy(zero_copy_only=False))
    clusters = new.clusters().codes[stated]
    return intervals_of(true[stated], _take(traced, stated), clusters, rates, settings.seed)


def _number(sample: Sample) -> _Gallery:
    names = sorted(set(sample.systems.to_pylist()))
    systems = pc.index_in(sample.systems, value_set=pa.array(names, pa.string())).to_numpy().astype(np.int64)
    clusters = sample.clusters().codes
    tried = choose(systems, hash_texts(sample.rows["key"]))
    parts = divide(systems[tried], np.unique(clusters[tried], return_inverse=True)[1])
    return _Gallery(sample, names, systems, clusters, tried, parts)


def _true_systems(names: Sequence[str], new: Sample) -> NDArray[np.int64]:
    """[N] the known system of each new utterance; NONE of an unknown one, and where none is stated."""
    found = pc.index_in(new.systems, value_set=pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(found, NONE).to_numpy(), np.int64)


def _try_layer(
    gallery: _Gallery,
    new: Sample,
    true: NDArray[np.int64],
    speech: Speech,
    layer: str,
    spaces: Sequence[SpaceKind],
    settings: Settings,
) -> list[_Found]:
    """Compare the embeddings of one layer in each space."""
    vectors = gallery.sample.vectors(layer)
    principal = principal_components(vectors[gallery.tried], MAX_COMPONENTS)
    if not len(principal.directions):
        raise InputError(f"{gallery.sample.location}: all embeddings of layer {layer} are equal")
    components, new_components = (principal.project(each) for each in (vectors, new.vectors(layer)))
    spoken = speech.components(layer)
    is_stated = new.systems.is_valid().to_numpy(zero_copy_only=False)
    found = []
    for kind in spaces:
        tried = components[gallery.tried], gallery.systems[gallery.tried]
        left_out = leave_out(*tried, gallery.parts, kind, settings.num_neighbours)
        space = Sums.of(components, gallery.systems, np.zeros_like(gallery.systems), 1).space(kind)
        units, new_units = space.apply(components), space.apply(new_components)
        compared = resemblance(space, new_units, units, gallery.systems, settings.num_neighbours)
        candidate = Candidate(
            layer,
            kind,
            _rates_in_gallery(tried[1], left_out),
            _rates_of_new(true, is_stated, compared),
            confounding_of(speech, spoken, kind),
        )
        found.append(_Found(candidate, left_out, compared, units, new_units, components))
    return found


def _rates_in_gallery(systems: NDArray[np.int64], left_out: LeftOut) -> Rates:
    has_own = left_out.nearest != NONE
    known, unknown = (each[np.isfinite(each)] for each in (left_out.known, left_out.unknown))
    return measure(systems[has_own], left_out.nearest[has_own], left_out.voted[has_own], known, unknown)


def _rates_of_new(true: NDArray[np.int64], is_stated: NDArray[np.bool_], compared: Resemblance) -> Rates:
    is_known, is_unknown = true != NONE, is_stated & (true == NONE)
    similarity = compared.similarities.max(axis=1).astype(np.float64)
    nearest, voted = (np.argmax(each[is_known], axis=1) for each in compared)
    return measure(true[is_known], nearest, voted, similarity[is_known], similarity[is_unknown])


def _calibrate(left_out: LeftOut) -> Likelihood:
    """Map the similarity to the nearest system to the likelihood ratio of a known system."""
    known, unknown = (each[np.isfinite(each)] for each in (left_out.known, left_out.unknown))
    if not unknown.size:
        return Likelihood(None, "the gallery has fewer than three systems, so none can be left out")
    if not known.size:
        return Likelihood(None, "no system of the gallery has utterances in two parts of it")
    return fit_likelihood(known, unknown)


def _take(traced: Traced, rows: NDArray[np.int64]) -> Traced:
    return Traced(
        traced.rows.take(pa.array(rows)),
        traced.similarities[rows],
        traced.votes[rows],
        None if traced.llr is None else traced.llr[rows],
        traced.is_known[rows],
    )


def _count_systems(gallery: _Gallery) -> list[SystemCount]:
    corpora = gallery.sample.rows["corpus"].fill_null("").to_numpy()
    pairs = set(zip(corpora.tolist(), gallery.systems.tolist(), strict=True))
    num_systems_of = {corpus: sum(pair[0] == corpus for pair in pairs) for corpus, _ in pairs}
    counts = []
    for number, name in enumerate(gallery.names):
        own = gallery.systems == number
        of_system = sorted(corpus for corpus, system in pairs if system == number)
        counts.append(
            SystemCount(
                name,
                int(own.sum()),
                int(np.unique(gallery.clusters[own]).size),
                [corpus for corpus in of_system if corpus],
                all(num_systems_of[corpus] == 1 for corpus in of_system),
            )
        )
    return counts


def _count_new(true: NDArray[np.int64], new: Sample) -> dict[str, int]:
    is_stated = new.systems.is_valid().to_numpy(zero_copy_only=False)
    is_bonafide = pc.fill_null(pc.equal(new.rows["label"], "bonafide"), False).to_numpy() & ~is_stated
    return {
        "known": int((true != NONE).sum()),
        "unknown": int((is_stated & (true == NONE)).sum()),
        "bonafide": int(is_bonafide.sum()),
        "not_stated": int((~is_stated & ~is_bonafide).sum()),
    }


def _count_shared(gallery: _Gallery, new: Sample, true: NDArray[np.int64]) -> int:
    """Count the speakers or files of known new utterances that are in the gallery as well."""
    known = new.take(true != NONE)
    if not len(known):
        return 0
    names = gallery.sample.clusters().names
    return int(pc.sum(pc.is_in(known.clusters().names, value_set=names)).as_py() or 0)


def _verify(
    trials: tuple[Trials, str] | None, gallery: _Gallery, new: Sample, best: _Found, settings: Settings
) -> Verification | None:
    if trials is None:
        return None
    num_groups = min(MAX_GROUPS, len(gallery.names) // 2)
    held_out = np.zeros_like(best.gallery_units)
    groups = np.full(gallery.systems.size, NONE)
    if num_groups > 1:
        sums = Sums.of(best.components, gallery.systems, np.zeros_like(gallery.systems), num_groups)
        for group in range(num_groups):
            rows = sums.groups[gallery.systems] == group
            space = sums.space(best.candidate.space, group)
            held_out[rows], groups[rows] = space.apply(best.components[rows]), group
    return verify(
        trials[0],
        trials[1],
        gallery.sample,
        best.gallery_units,
        new,
        best.new_units,
        HeldOut(held_out, groups, gallery.systems, gallery.clusters),
        settings.seed,
    )
