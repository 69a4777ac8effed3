"""Read `[[augment]]`: a chain of augmentations, each with a probability, of which one entry may be a choice or a chain.

`AUGMENTATIONS` lists the names that a configuration can use. Every entry has a random generator of its own, which
depends on its position alone: an entry that is added at the end changes nothing before it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from pipeline.data.audio.waveform import Waveform
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.augment.additive import Babble, Colour, Music, Noise
from pipeline.data.loading.augment.channel import BandPass, Clipping, Gain, LowPass, Resampling, Speed
from pipeline.data.loading.augment.codecs import Codec
from pipeline.data.loading.augment.packets import PacketLoss
from pipeline.data.loading.augment.rawboost import RawBoost
from pipeline.data.loading.augment.recordings import Source
from pipeline.data.loading.augment.rooms import Reverberation, Room
from pipeline.data.loading.augment.step import Augmentation, Library, RecordedAugmentation, Step
from pipeline.errors import InputError, did_you_mean
from pipeline.fields import types_of
from pipeline.settings import read_settings

AUGMENTATIONS: Mapping[str, type[Step]] = {
    name: kind
    for kind in (
        *(Gain, Clipping, Colour, Noise, Music, Babble, Reverberation, Room),
        *(LowPass, BandPass, Resampling, Speed, PacketLoss, Codec, RawBoost),
    )
    for name in get_args(types_of(kind)["name"])
}
"""Augmentations by name; rawboost5 is the one that AntiDeepfake was trained with."""


@dataclass(frozen=True, kw_only=True)
class OneOf(Step):
    """One of several augmentations, each with the same probability."""

    one_of: tuple[Step, ...]

    def change(self, waveform: Waveform, label: str, rng: np.random.Generator, library: Library) -> Waveform:
        """Return the waveform changed by one of them."""
        chosen = self.one_of[int(rng.integers(len(self.one_of)))]
        return chosen.apply(waveform, label, rng, library)


@dataclass(frozen=True, kw_only=True)
class Chain(Step):
    """Several augmentations in sequence."""

    chain: tuple[Step, ...]

    def change(self, waveform: Waveform, label: str, rng: np.random.Generator, library: Library) -> Waveform:
        """Return the waveform after the last of them."""
        for step, own_rng in zip(self.chain, rng.spawn(len(self.chain)), strict=True):
            waveform = step.apply(waveform, label, own_rng, library)
        return waveform


GROUPS: Mapping[str, type[Step]] = {"one_of": OneOf, "chain": Chain}
"""Entries that hold others, by the key under which they do."""


@dataclass(frozen=True)
class Augmenter:
    """All augmentations of a training, as a loader worker applies them."""

    chain: Chain
    library: Library

    def __call__(self, waveform: Waveform, label: str, rng: np.random.Generator) -> Waveform:
        """Return the changed waveform of an utterance with this label."""
        return self.chain.apply(waveform, label, rng, self.library)


def read_steps(tables: Sequence[Any]) -> tuple[Step, ...]:
    """Read the entries of `[[augment]]`; a name stands for the augmentation with its default settings.

    Raises:
        InputError: a name or a setting is unknown, or a value is wrong.
    """
    return tuple(map(_read_step, tables))


def _read_step(table: Any) -> Step:
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, dict):
        raise InputError(f"expected the name or the table of an augmentation, got {table!r}")
    for key, group in GROUPS.items():
        if key in table:
            return read_settings(group, table, key, {key: functools.partial(_read_list, key)})
    name = table.get("name")
    if not isinstance(name, str):
        raise InputError(
            f"an augmentation needs a name, one_of or chain; its settings are {', '.join(table)}"
        )
    if name not in AUGMENTATIONS:
        raise InputError(f"unknown augmentation {name!r}{did_you_mean(name, sorted(AUGMENTATIONS))}")
    return read_settings(AUGMENTATIONS[name], table, name)


def _read_list(key: str, value: Any) -> tuple[Step, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{key}: expected a list of augmentations, got {value!r}")
    return read_steps(value)


def augmenter(steps: Sequence[Step], library: Library | None = None) -> Augmenter | None:
    """Combine augmentations in sequence; None if there are none.

    Args:
        steps: the entries of `[[augment]]`.
        library: has the recordings of `sources_of(steps)`.
    """
    return Augmenter(Chain(chain=tuple(steps)), library or {}) if steps else None


def sources_of(steps: Sequence[Step]) -> list[Source]:
    """The corpora and kinds of all recordings that augmentations draw from, each once."""
    found = [step.source for step, _ in _leaves(steps) if isinstance(step, RecordedAugmentation)]
    return list(dict.fromkeys(found))


def check_labels(steps: Sequence[Step], bonafide_artifacts: Collection[str]) -> None:
    """Refuse to leave traces on bona fide speech that the recipe counts as spoof.

    Args:
        steps: the entries of `[[augment]]`.
        bonafide_artifacts: the artifact families that the recipe counts as bona fide.

    Raises:
        InputError: an augmentation does, and its settings do not say that the label stays.
    """
    for step, labels in _leaves(steps):
        if not isinstance(step, Augmentation) or step.label_preserving or "bonafide" not in labels:
            continue
        if step.artifact and step.artifact not in bonafide_artifacts:
            raise InputError(
                f"--augment: {step.name} would leave traces of the artifact {step.artifact!r} on bona fide speech, and "
                f'the recipe counts them as spoof; set labels = ["spoof"] to change spoofed speech only, or '
                "label_preserving = true to call such bona fide speech bona fide"
            )


def check_frame_labels(steps: Sequence[Step], bonafide_artifacts: Collection[str]) -> None:
    """Refuse to contradict the labels of parts of an utterance.

    Args:
        steps: the entries of `[[augment]]`.
        bonafide_artifacts: the artifact families that the recipe counts as bona fide.

    Raises:
        InputError: an augmentation moves speech in time, or would leave traces that the recipe counts as spoof on the
            bona fide parts of spoofed utterances.
    """
    for step, _ in _leaves(steps):
        assert isinstance(step, Augmentation | RecordedAugmentation)
        if not step.keeps_time:
            raise InputError(
                f"--augment: {step.name} moves speech in time, so the labels of frames would no longer fit; leave it "
                "out, or train without --training.loss.frame-weight"
            )
        if not isinstance(step, Augmentation) or step.label_preserving:
            continue
        if step.artifact and step.artifact not in bonafide_artifacts:
            raise InputError(
                f"--augment: {step.name} would leave traces of the artifact {step.artifact!r} on bona fide parts of "
                "spoofed utterances, and the recipe counts them as spoof; set label_preserving = true to call such "
                "bona fide speech bona fide, or train without --training.loss.frame-weight"
            )


def _leaves(
    steps: Sequence[Step], labels: Collection[str] = LABELS
) -> Iterator[tuple[Step, Collection[str]]]:
    """Each augmentation with the labels of the utterances that it may change."""
    for step in steps:
        own = [label for label in labels if label in step.labels]
        if isinstance(step, OneOf | Chain):
            yield from _leaves(step.one_of if isinstance(step, OneOf) else step.chain, own)
        else:
            yield step, own
