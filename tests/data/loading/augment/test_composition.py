"""Every augmentation keeps its contract, and entries compose without changing each other's random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.config import to_dict
from pipeline.data.audio.waveform import Waveform
from pipeline.data.corpora.utterance import KINDS
from pipeline.data.loading.augment.channel import Gain
from pipeline.data.loading.augment.composition import (
    AUGMENTATIONS,
    Augmenter,
    augmenter,
    check_frame_labels,
    check_labels,
    read_steps,
    sources_of,
)
from pipeline.data.loading.augment.step import Library, RecordedAugmentation
from pipeline.errors import InputError
from tests.data.loading.augment.recorded import record, speech


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("recordings")
    noises = record(
        folder / "noises", [speech(size, seed) for seed, size in enumerate((3_000, 40_000, 9_000))]
    )
    click = np.zeros(2_000, np.float32)
    click[[50, 900]] = 0.9, 0.3
    rooms = record(folder / "rooms", [click, speech(800) * np.float32(0.1)])
    return {(("musan",), kind): rooms if kind == "rir" else noises for kind in KINDS}


def table_of(name: str, **settings: Any) -> dict[str, Any]:
    needs_recordings = issubclass(AUGMENTATIONS[name], RecordedAugmentation)
    return {"name": name} | ({"from": "musan"} if needs_recordings else {}) | settings


def augment(
    tables: Sequence[Any], library: Library, waveform: Waveform, seed: int = 0, label: str = "spoof"
) -> Waveform:
    combined = augmenter(read_steps(tables), library)
    assert combined is not None
    return combined(waveform, label, np.random.default_rng(seed))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_depends_only_on_the_seed(name: str, library: Library):
    tables, waveform = [table_of(name)], speech()
    first, second, other = (augment(tables, library, waveform, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_keeps_the_length_and_the_input_and_stays_finite(name: str, library: Library):
    full_scale = np.sign(speech(5_000)).astype(np.float32)
    for waveform in (speech(400), speech(12_345), np.zeros(4_000, dtype=np.float32), full_scale):
        before = waveform.copy()
        augmented = augment([table_of(name)], library, waveform)
        assert augmented.shape == waveform.shape
        assert augmented.dtype == np.float32
        assert np.isfinite(augmented).all()
        np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_only_an_augmentation_that_says_so_moves_sounds_in_time(name: str, library: Library):
    waveform, end = 0.3 * speech(32_000), slice(28_000, 32_000)
    lags = []
    for seed in range(5):
        augmented = augment([table_of(name)], library, waveform, seed)
        match = np.correlate(augmented[end], waveform[end], "full")
        lags.append(abs(int(np.abs(match).argmax()) - 3_999))
    assert (np.median(lags) < 160) == AUGMENTATIONS[name].keeps_time  # half a frame


def test_an_augmentation_that_contradicts_the_labels_of_frames_is_refused():
    harmless = ["room", "rawboost5", "packet_loss", "reverberation"]
    check_frame_labels(read_steps([table_of(name) for name in harmless]), [])
    for moving in ("speed", {"one_of": ["gain", {"chain": ["speed"]}]}):
        with pytest.raises(
            InputError, match=r"speed moves speech in time, .* without --training.loss.frame-weight"
        ):
            check_frame_labels(read_steps([moving]), [])
    coded = read_steps([table_of("codec", labels=["spoof"])])
    check_labels(coded, [])
    with pytest.raises(
        InputError, match=r"codec would leave traces .* on bona fide parts of spoofed utterances"
    ):
        check_frame_labels(coded, [])
    check_frame_labels(coded, ["codec"])
    check_frame_labels(read_steps([table_of("codec", label_preserving=True)]), [])


def test_an_entry_at_the_end_does_not_change_the_random_numbers_of_those_before_it(library: Library):
    earlier = [table_of("noise"), table_of("speed"), table_of("colour", probability=0.5)]
    silent_end = table_of("gain", gain_db=[0, 0])
    for seed in range(5):
        alone = augment(earlier, library, speech(), seed)
        np.testing.assert_array_equal(alone, augment([*earlier, silent_end], library, speech(), seed))


def test_the_settings_of_an_entry_do_not_change_the_random_numbers_of_the_next_one(library: Library):
    rare, frequent = ([table_of("gain", gain_db=[0, 0], probability=share), "colour"] for share in (0.0, 1.0))
    np.testing.assert_array_equal(augment(rare, library, speech()), augment(frequent, library, speech()))


def test_equal_entries_at_two_positions_draw_different_numbers(library: Library):
    waveform = speech()
    once = augment(["colour"], library, waveform) - waveform
    twice = augment(["colour", "colour"], library, waveform) - waveform
    assert not np.allclose(2 * once, twice, atol=1e-4)


def test_a_probability_is_the_share_of_the_utterances_that_change(library: Library):
    tables = [table_of("gain", gain_db=[-6, -6], probability=0.3)]
    waveform = speech(400)
    changed = sum(
        not np.array_equal(augment(tables, library, waveform, seed), waveform) for seed in range(600)
    )
    assert changed == pytest.approx(180, abs=45)  # four standard deviations


def test_one_of_several_augmentations_is_drawn_with_equal_probability(library: Library):
    gains = [table_of("gain", gain_db=[level, level]) for level in (-6, -12, -18)]
    tables = [{"one_of": gains}]
    waveform = speech(400)
    peaks = [float(np.abs(augment(tables, library, waveform, seed)).max()) for seed in range(300)]
    levels = np.rint(20 * np.log10(np.array(peaks) / np.abs(waveform).max())).astype(int)
    names, counts = np.unique(levels, return_counts=True)
    assert names.tolist() == [-18, -12, -6]
    assert counts.min() > 65


def test_a_chain_applies_its_entries_in_order(library: Library):
    louder, quieter = (table_of("gain", gain_db=[level, level]) for level in (40, -40))
    waveform = speech()
    np.testing.assert_allclose(augment([quieter, louder], library, waveform), waveform, atol=1e-6)
    clipped_first = augment([{"one_of": [{"chain": [louder, quieter]}]}], library, waveform)
    assert np.abs(clipped_first).max() == pytest.approx(0.01)


def test_labels_restrict_an_augmentation(library: Library):
    tables = [table_of("gain", gain_db=[-6, -6], labels=["spoof"])]
    waveform = speech()
    np.testing.assert_array_equal(augment(tables, library, waveform, label="bonafide"), waveform)
    assert not np.array_equal(augment(tables, library, waveform, label="spoof"), waveform)


def test_no_entries_are_no_augmentation():
    assert augmenter(()) is None
    assert isinstance(augmenter((Gain(),)), Augmenter)


def test_settings_are_read_written_and_read_again():
    tables = [
        "rawboost5",
        {"name": "noise", "from": "musan", "snr_db": [5, 20], "probability": 0.3},
        {
            "one_of": [
                {"name": "codec", "codecs": ["mp3", "aac"], "bit_rate": [16, 64], "labels": ["spoof"]},
                {"chain": ["speed", "packet_loss"]},
            ],
            "probability": 0.5,
        },
    ]
    steps = read_steps(tables)
    written = [to_dict(step) for step in steps]
    assert written[1] == {
        "name": "noise",
        "probability": 0.3,
        "labels": ["spoof", "bonafide"],
        "from": ["musan"],
        "snr_db": [5.0, 20.0],
    }
    assert next(iter(written[1])) == "name"
    assert read_steps(written) == steps
    assert sources_of(steps) == [(("musan",), "noise")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("rawbost5", "unknown augmentation 'rawbost5'; did you mean rawboost5?"),
        ("noise", "noise: missing from: Corpora of the store with the role augmentation"),
        (
            {"name": "noise", "from": "musan", "snr": [1, 2]},
            "noise: unknown setting 'snr'; did you mean snr_db?",
        ),
        (
            {"name": "gain", "gain_db": [6, -20]},
            r"gain: gain_db: expected \[low, high\] with low ≤ high .*\[6, -20\]",
        ),
        ({"name": "gain", "gain_db": 6}, r"gain: gain_db: expected \[low, high\] with low ≤ high .*, got 6"),
        ({"name": "gain", "gain_db": ["a", "b"]}, r"gain: gain_db: expected \[low, high\]"),
        ({"name": "gain", "gain_db": [0, 999]}, "from -120 to 120, got"),
        ({"name": "gain", "probability": 2}, "gain: probability: expected a number from 0 to 1, got 2"),
        ({"name": "gain", "probability": True}, "gain: probability: expected a number from 0 to 1, got true"),
        ({"name": "gain", "labels": ["real"]}, "gain: labels: unknown 'real'; known: spoof, bonafide"),
        ({"name": "gain", "labels": []}, "gain: labels: expected a list of .*, got "),
        ({"name": "gain", "label_preserving": True}, "gain: unknown setting 'label_preserving'"),
        ({"name": "codec", "codecs": ["mp4"]}, "codec: codecs: unknown 'mp4'; did you mean mp3?"),
        (
            {"name": "packet_loss", "loss": [0.1, 0.8]},
            "packet_loss: a loss of 0.8 cannot come in bursts of 1",
        ),
        ({"name": "band_pass", "low_hz": [300, 4000]}, "band_pass: low_hz reaches 4000"),
        ({"name": "rawboost1", "num_taps": [10, 1000]}, "rawboost1: .* taps; give fewer"),
        ({"one_of": []}, r"one_of: expected a list of augmentations, got \[\]"),
        ({"one_of": ["gain", {"name": "nois"}]}, "unknown augmentation 'nois'; did you mean noise?"),
        ({"one_of": ["gain"], "snr_db": [1, 2]}, "one_of: unknown setting 'snr_db'"),
        ({"snr_db": [1, 2]}, "an augmentation needs a name, one_of or chain; its settings are snr_db"),
        (7, "expected the name or the table of an augmentation, got 7"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(table: Any, message: str):
    with pytest.raises(InputError, match=message) as error:
        read_steps([table])
    assert "\n" not in str(error.value)


CODEC = {"name": "codec"}


@pytest.mark.parametrize(
    "table", [CODEC, {"one_of": ["gain", CODEC]}, {"chain": [CODEC], "labels": ["bonafide"]}]
)
def test_a_codec_on_bona_fide_speech_is_refused_while_codecs_count_as_spoof(table: Any):
    with pytest.raises(InputError, match=r'labels = \["spoof"\].*label_preserving = true'):
        check_labels(read_steps([table]), ["vocoder"])


@pytest.mark.parametrize(
    "table",
    [
        CODEC | {"labels": ["spoof"]},
        CODEC | {"label_preserving": True},
        {"one_of": ["gain", CODEC], "labels": ["spoof"]},
        {"one_of": [CODEC | {"labels": ["bonafide"]}], "labels": ["spoof"]},  # changes nothing at all
    ],
)
def test_a_codec_is_accepted_if_its_settings_say_what_becomes_of_the_label(table: Any):
    check_labels(read_steps([table]), ["vocoder"])


def test_a_codec_is_accepted_if_the_recipe_counts_codecs_as_bona_fide():
    check_labels(read_steps([CODEC]), ["codec"])
