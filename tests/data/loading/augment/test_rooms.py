"""A room keeps the level, the length and the place of the direct sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.loading.augment.rooms import Reverberation, Room, convolve
from tests.data.loading.augment.recorded import RATE, record, speech


def test_reverberation_keeps_the_level_and_decays_at_the_requested_rate():
    click = np.zeros(2 * RATE, dtype=np.float32)
    click[100] = 0.5
    room = Reverberation(rt60_s=(0.5, 0.5), direct_to_tail_db=(0, 0), predelay_s=(0.005, 0.005))
    wet = room(click, np.random.default_rng(0))
    assert np.linalg.norm(wet) == pytest.approx(0.5, rel=1e-5)
    assert np.abs(wet[:100]).max() < 1e-6
    assert wet[100] == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    early, late = (np.std(wet[begin : begin + 800]) for begin in (200, 200 + RATE // 4))
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=2)


@pytest.mark.parametrize("delay", [0, 1, 399])
def test_the_impulse_response_of_no_room_returns_the_waveform(delay: int, tmp_path: Path):
    impulse = np.zeros(400, np.float32)
    impulse[delay] = 0.25
    room = Room(from_=("rirs",))
    wet = room.mix(speech(), np.random.default_rng(0), record(tmp_path / "impulse", [impulse]))
    np.testing.assert_allclose(wet, speech(), atol=1e-6)


def test_reflections_come_after_the_direct_sound_at_their_level():
    response = np.zeros(1_000, np.float32)
    response[[20, 120, 900]] = -1.0, 0.5, 0.25
    click = np.zeros(2_000, np.float32)
    click[500] = 0.8
    wet = convolve(click, response)
    assert np.argmax(np.abs(wet)) == 500
    assert wet[600] / wet[500] == pytest.approx(-0.5, rel=1e-4)
    assert wet[1_380] / wet[500] == pytest.approx(-0.25, rel=1e-4)
    assert np.linalg.norm(wet) == pytest.approx(0.8, rel=1e-5)
