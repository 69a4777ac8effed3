"""What a reader must know before trusting verdicts about systems, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.tracing.results import SPACES, Results, SystemCount
from pipeline.tracing.verdicts import roles

CONFOUNDED = 0.5
"""From here, a layer tells corpora so well that it may tell them instead of systems."""

FEW_UTTERANCES = 20
"""The mean of fewer utterances is a rough one."""

FEW_SYSTEMS = 5
"""With fewer systems, leaving one out says little about others that are unknown."""

NUM_NAMED = 5
"""Systems that a sentence names."""


def concerns(results: Results) -> list[str]:
    """List what limits the verdicts and the rates."""
    return [
        *_confounding(results),
        *_systems(results.systems),
        *_calibration(results),
        *_clusters(results),
        *_corpora(results),
        *_scores(results),
    ]


def named(names: Sequence[str]) -> str:
    """List the first names, and count the others."""
    shown = ", ".join(names[:NUM_NAMED])
    return shown if len(names) <= NUM_NAMED else f"{shown} and {len(names) - NUM_NAMED} more"


def _confounding(results: Results) -> Iterator[str]:
    best, corpora = results.best, {corpus for system in results.systems for corpus in system.corpora}
    if best.confounding is None:
        if len(corpora) > 1:
            yield (
                f"Whether layer {best.layer} tells corpora instead of systems could not be measured, because there is "
                "bona fide speech of fewer than two corpora. Add bona fide speech of the corpora of the gallery."
            )
    elif best.confounding >= CONFOUNDED:
        yield (
            f"Layer {best.layer} ({SPACES[best.space]}) tells the corpus of bona fide speech by {best.confounding:.2f} "
            "on a scale from 0 (chance) to 1. It may recognise recordings instead of systems, so compare systems of "
            "one corpus."
        )


def _systems(systems: Sequence[SystemCount]) -> Iterator[str]:
    alone = [system.name for system in systems if system.is_alone]
    if alone:
        yield (
            f"Alone in a corpus of its own: {named(alone)}. Its recordings, speakers or language may be traced instead "
            "of the system."
            if len(alone) == 1
            else f"Each alone in a corpus of its own: {named(alone)}. Their recordings, speakers or languages may be "
            "traced instead of the systems."
        )
    single = [system.name for system in systems if system.num_clusters == 1 < system.num_utterances]
    if single:
        yield f"Of a single speaker or source file: {named(single)}. The voice may be traced instead of the system."
    if all(system.num_clusters == system.num_utterances for system in systems):
        yield (
            "No two utterances of a system in the gallery have a common speaker or source file. If speakers are merely "
            "not stated, the rates in the gallery are too good."
        )
    few = [
        f"{system.name} ({system.num_utterances})"
        for system in systems
        if system.num_utterances < FEW_UTTERANCES
    ]
    if few:
        yield f"With fewer than {FEW_UTTERANCES} utterances, the mean of a system is rough: {named(few)}."


def _calibration(results: Results) -> Iterator[str]:
    if results.known_map is None:
        problem = results.known_problem.strip().rstrip(".")
        yield (
            f"No utterance is called unknown, because the similarity could not be calibrated: {problem}. Each is given "
            "its nearest system."
        )
    elif len(results.systems) < FEW_SYSTEMS:
        yield (
            f"The gallery has {len(results.systems)} systems, so the threshold for unknown ones comes from leaving out "
            "few, and is rough."
        )


def _clusters(results: Results) -> Iterator[str]:
    number = results.num_shared_clusters
    if number:
        subject = "1 speaker or source file is" if number == 1 else f"{number:,} speakers or source files are"
        yield (
            f"{subject} in the gallery and among the new utterances of known systems. Voices may be recognised instead "
            "of systems, so the rates may be too good."
        )


def _corpora(results: Results) -> Iterator[str]:
    corpus, role = np.array(results.traced.rows["corpus"].to_pylist(), object), roles(results)
    known, unknown = ({*corpus[role == name]} - {None} for name in ("known", "unknown"))
    if known and unknown and not known & unknown:
        yield (
            f"The new utterances of known systems are from {named(sorted(known))}, those of unknown ones from "
            f"{named(sorted(unknown))}. Another corpus may be what is recognised as unknown."
        )


def _scores(results: Results) -> Iterator[str]:
    corpora = {corpus for system in results.systems for corpus in system.corpora}
    trained = sorted(corpora & {*(results.gallery.get("training_corpora") or ())})
    if trained:
        yield (
            f"The detector was trained on corpora of the gallery: {named(trained)}. It may tell their systems apart "
            "better than those of other corpora."
        )
    if results.num_missing:
        yield (
            f"{results.num_missing:,} files of the protocol have no embedding, or several utterances have their name; "
            "they are left out."
        )
    if results.verification is not None and results.verification.num_missing:
        yield (
            f"{results.verification.num_missing:,} of {len(results.verification.rows):,} trials have no score, because "
            "no utterance of one of their sets has an embedding."
        )
    if results.verification is not None and results.verification.num_overlapping:
        yield (
            f"{results.verification.num_overlapping:,} of {len(results.verification.rows):,} trials have an utterance "
            "in both sets, so their similarity is too high and the rates are too good."
        )
    per_group = (results.new.get("embeddings") or {}).get("per_group")
    if per_group:
        yield (
            f"At most {per_group:,} new utterances of each corpus, label and attack have an embedding, so rare systems "
            "weigh more in the rates than in the scores; for other rates, score with --embeddings without a number."
        )
    for location, identity in {
        results.gallery_location: results.gallery,
        results.new_location: results.new,
    }.items():
        number = identity.get("num_rejected")
        if number:
            yield f"{number:,} utterances of {location} could not be scored, and are left out."
