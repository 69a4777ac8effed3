"""Decide which utterances are the gallery, and which are traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.evaluation.complete import find_score_folder
from pipeline.evaluation.embeddings import EmbeddedRows, find_difference, load_embedded_rows
from pipeline.storage import Folder
from pipeline.tracing.protocol import GALLERY_FILE, NEW_FILE, load_protocol
from pipeline.tracing.sample import Sample

MIN_SYSTEMS = 2
"""With a single system, every utterance resembles it most."""


@dataclass(frozen=True)
class Selection:
    """Which utterances are in the gallery, and which are new."""

    gallery_splits: Sequence[str] = ()
    """Splits of the gallery; all if empty."""
    new_splits: Sequence[str] = ()
    """Splits of the new utterances; all if empty."""
    held_out: Sequence[str] = ()
    """Systems that are left out of the gallery, and so are unknown."""
    protocol: str = ""
    """Folder of the protocol of MLAAD, which then decides instead of attacks and splits; empty: none."""


@dataclass(frozen=True)
class Roles:
    """The utterances that are compared."""

    gallery: Sample
    """Utterances of named systems."""
    new: Sample
    """Utterances to trace; bona fide ones and those without a label among them."""
    bonafide: Sequence[Sample]
    """Bona fide utterances of both folders, which show whether an embedding tells corpora apart."""
    num_missing: int
    """Files of the protocol that have no embedding."""


def assign_roles(gallery: str, new: str, selection: Selection) -> Roles:
    """Load the utterances of two SCORES folders, which may be the same, and decide what they are for.

    Raises:
        InputError: scores are incomplete, without embeddings, or of different detectors, windows or precisions; the
            gallery has fewer than two systems; nothing is new; an utterance is in the gallery and new.
    """
    sides = [load_embedded_rows(find_score_folder(Folder(each))) for each in (gallery, new)]
    first, second = sides
    if difference := find_difference(first.identity, second.identity):
        raise InputError(
            f"{second.folder.location()}: the gallery is of {difference.words} {difference.first}, and these are "
            f"scores with {difference.second}; score both with the same detector and flags"
        )
    if selection.protocol:
        lists = [
            load_protocol(selection.protocol, file, side.rows)
            for file, side in zip((GALLERY_FILE, NEW_FILE), sides, strict=True)
        ]
        samples = [
            Sample(side, each.positions, each.systems) for side, each in zip(sides, lists, strict=True)
        ]
        num_missing = sum(each.num_missing for each in lists)
    else:
        samples = [_gallery(first, selection), _new(second, selection)]
        num_missing = 0
    _check(samples[0], samples[1], selection)
    folders = sides[:1] if first.folder == second.folder else sides
    bonafide = [_bonafide(side) for side in folders]
    return Roles(samples[0], samples[1], bonafide, num_missing)


def _gallery(embedded: EmbeddedRows, selection: Selection) -> Sample:
    everything = _attacks(embedded)
    is_chosen = everything.systems.is_valid().to_numpy(zero_copy_only=False)
    is_chosen &= _in_splits(embedded, selection.gallery_splits)
    held_out = pc.is_in(everything.systems, value_set=pa.array(list(selection.held_out), pa.string()))
    return everything.take(is_chosen & ~held_out.to_numpy(zero_copy_only=False))


def _new(embedded: EmbeddedRows, selection: Selection) -> Sample:
    everything = _attacks(embedded)
    is_chosen = _in_splits(embedded, selection.new_splits)
    held_out = pc.is_in(everything.systems, value_set=pa.array(list(selection.held_out), pa.string()))
    return everything.take(is_chosen | held_out.to_numpy(zero_copy_only=False))


def _attacks(embedded: EmbeddedRows) -> Sample:
    """All utterances; the system of a spoof is its attack."""
    is_spoof = pc.fill_null(pc.equal(embedded.rows["label"], "spoof"), False)
    systems = pc.if_else(is_spoof, embedded.rows["attack"], pa.scalar(None, pa.string()))
    return Sample(embedded, np.arange(len(embedded.rows)), systems.combine_chunks())


def _bonafide(embedded: EmbeddedRows) -> Sample:
    is_bonafide = pc.fill_null(pc.equal(embedded.rows["label"], "bonafide"), False).to_numpy()
    return _attacks(embedded).take(is_bonafide)


def _in_splits(embedded: EmbeddedRows, splits: Sequence[str]) -> NDArray[np.bool_]:
    if not splits:
        return np.ones(len(embedded.rows), bool)
    stated = pc.is_in(embedded.rows["split"], value_set=pa.array(list(splits), pa.string()))
    return np.asarray(stated.to_numpy(zero_copy_only=False), bool)


def _check(gallery: Sample, new: Sample, selection: Selection) -> None:
    systems = set(gallery.systems.to_pylist())
    if len(systems) < MIN_SYSTEMS:
        remedy = "score corpora whose manifests name attacks, with --embeddings"
        if selection.gallery_splits:
            remedy += f", or give other --gallery-splits than {','.join(selection.gallery_splits)}"
        raise InputError(
            f"{gallery.location}: the gallery needs spoofs of at least {MIN_SYSTEMS} named attacks, and has "
            f"{len(systems)}; {remedy}"
        )
    stated = {name for name in new.embedded.rows["attack"].unique().to_pylist() if name}
    unknown = sorted(
        set(selection.held_out) - stated - set(gallery.embedded.rows["attack"].unique().to_pylist())
    )
    if unknown:
        raise InputError(f"--hold-out {','.join(unknown)}: no utterance is of this attack")
    if not len(new):
        remedy = (
            f"give other --new-splits than {','.join(selection.new_splits)}" if selection.new_splits else ""
        )
        raise InputError(f"{new.location}: no utterance to trace; {remedy or 'score some with --embeddings'}")
    shared = pc.sum(pc.is_in(new.rows["key"], value_set=gallery.rows["key"].combine_chunks())).as_py() or 0
    if shared:
        remedy = (
            f"no file may be in both {GALLERY_FILE} and {NEW_FILE}"
            if selection.protocol
            else "divide them with --gallery-splits and --new-splits"
        )
        raise InputError(f"{new.location}: {shared} utterances are in the gallery and new; {remedy}")
