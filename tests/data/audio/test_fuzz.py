"""Damage of every kind to every format: refused, or heard right; `docs/audio.md` tells what cannot be noticed."""

from __future__ import annotations

import pytest

from tests.data.audio.damage import DAMAGES, Damage, count_outcomes
from tests.data.audio.formats import FORMATS

NUM_CASES = 12
"""Damaged files a format and a kind of damage; the rates in the docs come from hundreds."""

CHECKSUMS = frozenset({"flac", "flac of 24 bit", "flac in ogg", "flac in matroska", "vorbis", "opus"})
"""Formats in which a checksum covers the audio: no damage at all may pass."""

LENGTHS: tuple[Damage, ...] = ("hole", "cut", "join", "tail")
"""Damage that every format notices by its lengths, because bytes are missing or too many."""


NOTICED = [(name, damage) for name in FORMATS for damage in DAMAGES if name in CHECKSUMS or damage in LENGTHS]
UNNOTICED = [(name, damage) for name in FORMATS for damage in DAMAGES if (name, damage) not in NOTICED]


@pytest.mark.parametrize(("name", "damage"), NOTICED)
def test_damage_is_refused_or_changes_nothing(name: str, damage: Damage) -> None:
    outcomes = count_outcomes(name, damage, 1 if damage == "join" else NUM_CASES)
    assert outcomes["wrong"] == 0


@pytest.mark.parametrize(("name", "damage"), UNNOTICED)
def test_damage_that_no_checksum_shows_raises_nothing_but_an_audio_error(name: str, damage: Damage) -> None:
    assert count_outcomes(name, damage, NUM_CASES).total() == NUM_CASES
