"""Scoring in batches gives the same result as scoring one utterance at a time."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.detector.details import HEAD, Details
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.detector.scoring import Scorer
from pipeline.detector.variants import frame_counts
from pipeline.detector.windows import WindowPolicy
from pipeline.errors import InputError

POLICIES = ("whole", "window:0.5:first", "window:0.5:mean", "window:0.5:max")
LENGTHS = (16_000, 9_000, 300, 40_000, 16_000, 8_001, 1)


def make_detector(family: str = "tiny") -> Detector:
    torch.manual_seed(1)
    detector = Detector(DetectorConfig(VARIANTS[family]))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector


def make_waveforms() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(length) * 0.1 + 0.2).astype(np.float32) for length in LENGTHS]


@pytest.mark.parametrize("family", ["tiny", "tiny_group"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_list_gets_the_same_scores_as_each_waveform_alone(family, policy):
    scorer = Scorer(make_detector(family), max_seconds=3, policy=WindowPolicy.parse(policy))
    waveforms = make_waveforms()
    together = scorer.score(waveforms)
    alone = np.concatenate([scorer.score([waveform]) for waveform in waveforms])
    assert together.shape == (len(LENGTHS), 2)
    assert together.dtype == np.float32
    assert np.ptp(alone[:, 1]) > 1e-2, "equal scores would prove nothing"
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


def test_similar_lengths_reach_the_detector_as_one_length():
    detector, shapes = make_detector(), []
    detector.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    scorer = Scorer(detector)
    for length in (8_001, 8_700, 9_600):
        scorer.score([np.random.default_rng(length).standard_normal(length).astype(np.float32)])
    assert shapes == [(1, 9_600)] * 3


def test_level_and_offset_of_a_recording_do_not_change_its_score():
    scorer = Scorer(make_detector())
    waveforms = make_waveforms()[:3]
    louder = [waveform * 2.0 - 0.1 for waveform in waveforms]
    np.testing.assert_allclose(scorer.score(louder), scorer.score(waveforms), atol=2e-3)


def test_policies_combine_the_logits_of_windows_scored_alone():
    waveform = make_waveforms()[3]
    detector = make_detector()
    windows = WindowPolicy.parse("window:1:mean").cut(waveform)
    logits = Scorer(detector).score(windows)
    assert np.ptp(logits[:, 1] - logits[:, 0]) > 1e-3
    expected = {
        "first": logits[0],
        "mean": logits.mean(axis=0),
        "max": logits[np.argmax(logits[:, 1] - logits[:, 0])],
    }
    for combination, logits_2 in expected.items():
        scored = Scorer(detector, policy=WindowPolicy.parse(f"window:1:{combination}")).score([waveform])
        np.testing.assert_allclose(scored[0], logits_2, atol=1e-5)


def test_windows_cover_the_utterance_and_have_equal_length():
    policy = WindowPolicy.parse("window:1:mean")
    ramp = np.arange(40_000, dtype=np.float32)
    windows = policy.cut(ramp)
    assert [int(window[0]) for window in windows] == [0, 16_000, 24_000]
    assert {len(window) for window in windows} == {16_000}
    assert [len(window) for window in policy.cut(ramp[:32_000])] == [16_000, 16_000]
    assert [len(window) for window in policy.cut(ramp[:5_000])] == [5_000]
    first = WindowPolicy.parse("window:1:first").cut(ramp)
    assert [len(window) for window in first] == [16_000]


@pytest.mark.parametrize("text", ["whole", "window:4:first", "window:0.5:mean", "window:13.25:max"])
def test_parsing_and_printing_a_policy_are_inverse(text):
    assert str(WindowPolicy.parse(text)) == text
    assert WindowPolicy.parse(str(WindowPolicy.parse(text))) == WindowPolicy.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "all", "window", "window:4", "window:x:mean", "window:4:min", "window:-1:mean", "window:nan:max"],
)
def test_an_unknown_policy_is_an_error_that_lists_the_known_ones(text):
    with pytest.raises(InputError, match=r"known: whole, window:SECONDS:first\|mean\|max"):
        WindowPolicy.parse(text)


def test_an_empty_list_has_no_scores():
    assert Scorer(make_detector()).score([]).shape == (0, 2)


def test_a_waveform_that_cannot_be_scored_is_an_error_that_names_it():
    scorer = Scorer(make_detector())
    good = make_waveforms()[0]
    with pytest.raises(ValueError, match=r"waveform 1 has shape \(0,\)"):
        scorer.score([good, good[:0]])
    with pytest.raises(ValueError, match=r"waveform 0 has shape \(2, 8000\)"):
        scorer.score([good.reshape(2, -1)])
    with pytest.raises(ValueError, match=r"logits of waveforms \[1\] are not finite"):
        scorer.score([good, good * np.float32(np.nan)])


def test_bfloat16_scores_are_close_to_float32():
    detector = make_detector()
    exact = Scorer(detector).score(make_waveforms())
    rounded = Scorer(detector, precision="bf16").score(make_waveforms())
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, atol=0.1)


def test_impossible_settings_are_rejected():
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        Scorer(make_detector(), precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_seconds is 0"):
        Scorer(make_detector(), max_seconds=0)


def test_batches_are_planned_within_memory():
    scorer = Scorer(make_detector(), max_seconds=1000)
    waveforms = [np.ones(16_000, np.float32) * np.linspace(-1, 1, 16_000, dtype=np.float32)] * 10
    sizes: list[int] = []
    scorer.detector.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    expected = scorer.score(waveforms)
    assert sizes == [10]
    sizes.clear()
    scorer.memory_bytes = 3.5 * scorer.needed_bytes(16_000)
    np.testing.assert_allclose(scorer.score(waveforms), expected, atol=1e-5)
    assert sum(sizes) == 10 and max(sizes) == 3


def test_a_window_needs_less_memory_than_the_utterance():
    whole, windows = (
        Scorer(make_detector(), policy=WindowPolicy.parse(policy)) for policy in ("whole", "window:1:mean")
    )
    assert whole.needed_bytes(160_000) > 9 * windows.needed_bytes(160_000)
    assert whole.needed_bytes(8_000) == windows.needed_bytes(8_000)


@pytest.mark.parametrize("family", ["tiny", "tiny_group"])
@pytest.mark.parametrize("policy", POLICIES)
def test_embeddings_and_frames_of_a_list_equal_those_of_each_waveform_alone(family, policy):
    scorer = Scorer(make_detector(family), max_seconds=3, policy=WindowPolicy.parse(policy))
    wanted = Details(("1", "head", "0", "spectrum"), frames=True)
    waveforms = make_waveforms()
    together = scorer.compute(waveforms, wanted)
    alone = [scorer.compute([waveform], wanted) for waveform in waveforms]
    for layer, embedding_NE in enumerate(together.embeddings):
        expected_NE = np.concatenate([each.embeddings[layer] for each in alone])
        np.testing.assert_allclose(embedding_NE, expected_NE, atol=1e-4, rtol=0)
        assert np.ptp(expected_NE, axis=0).max() > 1e-2, "equal embeddings would prove nothing"
    for scores_F, each in zip(together.frames, alone, strict=True):
        np.testing.assert_allclose(scores_F, each.frames[0], atol=1e-5, rtol=0)
    assert not np.allclose(together.embeddings[0], together.embeddings[2], atol=1e-2)


def test_the_mean_of_the_frames_is_the_score_and_the_embedding_of_the_head_is_what_it_classifies():
    detector = make_detector()
    computed = Scorer(detector).compute(make_waveforms(), Details((HEAD, "2"), frames=True))
    scores_N = computed.logits[:, 1] - computed.logits[:, 0]
    np.testing.assert_allclose([each.mean() for each in computed.frames], scores_N, atol=1e-5)
    assert [len(each) for each in computed.frames] == [frame_counts(length)[-1] for length in LENGTHS]
    with torch.inference_mode():
        logits_N2 = detector.head(torch.from_numpy(computed.embeddings[0])).numpy()
    np.testing.assert_allclose(logits_N2, computed.logits, atol=1e-5)
    # The head of the released detectors averages the output of the last layer.
    np.testing.assert_allclose(computed.embeddings[0], computed.embeddings[1], atol=1e-5)


@pytest.mark.parametrize("combination", ["mean", "max"])
def test_frames_of_windows_are_joined_at_the_times_of_the_utterance(combination):
    policy = WindowPolicy.parse(f"window:1:{combination}")
    num_samples = 50_000  # windows start at 0, 16,000, 32,000 and 34,000
    num_frames = frame_counts(16_000)[-1]
    assert num_frames == 49
    starts = (0, 16_000, 32_000, 34_000)
    times = [start + 320 * np.arange(num_frames, dtype=np.float32) for start in starts]
    joined = policy.join_frames(num_samples, times)
    expected = 320 * np.arange(frame_counts(num_samples)[-1])
    assert len(joined) == len(expected) == 156
    # One frame in each second is missing, where a window ends; the last window is off the grid of the others.
    assert np.abs(joined - expected).max() <= 320
    assert (joined[:49] == expected[:49]).all()
    assert joined[49] == joined[48]
    assert (joined[50:99] == expected[50:99]).all()


def test_a_layer_that_does_not_exist_is_an_error_that_lists_those_that_do():
    with pytest.raises(
        InputError, match="the detector has no layer '3'; give head, spectrum, or a number from 0 to 2"
    ):
        Scorer(make_detector()).compute([np.ones(8_000, np.float32)], Details(("3",)))
