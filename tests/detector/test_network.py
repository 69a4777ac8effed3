"""The network: padding, gradients, precision, and hidden states against transformers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.detector.network import (
    VARIANTS,
    Detector,
    DetectorConfig,
    frame_lengths,
    normalise,
)
from tests.detector.toys import FAMILIES, LENGTHS, make_clips, make_detector


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_padding_and_other_utterances_in_a_batch_do_not_change_a_score(family, dtype, tolerance):
    detector = make_detector(VARIANTS[family]).to(dtype)
    clips = [clip.to(dtype) for clip in make_clips()]
    with torch.inference_mode():
        alone = torch.cat([detector(clip[None]).logits for clip in clips])
        together = detector(pad_sequence(clips, batch_first=True), torch.tensor(LENGTHS)).logits
        some = detector(pad_sequence([*clips[2:5]], batch_first=True), torch.tensor(LENGTHS[2:5])).logits
    assert alone.std(dim=0).min() > 1e-2, "equal scores would prove nothing"
    torch.testing.assert_close(together, alone, atol=tolerance, rtol=0)
    torch.testing.assert_close(some, alone[2:5], atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_a_score_if_no_lengths_are_given(family):
    detector = make_detector(VARIANTS[family])
    clips = make_clips((16_000, 9_000))
    with torch.inference_mode():
        without_lengths = detector(pad_sequence(clips, batch_first=True)).logits
        alone = detector(clips[1][None]).logits
    assert (without_lengths[1] - alone[0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_full_lengths_give_the_same_bits_as_no_lengths(family):
    detector = make_detector(VARIANTS[family])
    waveforms = torch.stack(make_clips((8_000, 8_000)))
    with torch.inference_mode():
        assert torch.equal(
            detector(waveforms, torch.tensor([8_000, 8_000])).logits, detector(waveforms).logits
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_gradients(family):
    detector = make_detector(VARIANTS[family]).double()
    clips = [clip.double() for clip in make_clips((4_000, 2_345))]
    detector(
        pad_sequence(clips, batch_first=True), torch.tensor([4_000, 2_345])
    ).logits.square().sum().backward()
    together = {name: parameter.grad.clone() for name, parameter in detector.named_parameters()}
    detector.zero_grad()
    for clip in clips:
        detector(clip[None]).logits.square().sum().backward()
    for name, parameter in detector.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-10, rtol=1e-8, msg=name)


def test_normalised_utterances_have_mean_zero_variance_one_and_zero_padding():
    waveforms = torch.randn(3, 1_000, generator=torch.Generator().manual_seed(0)) * 0.2 + 5.0
    num_samples = torch.tensor([1_000, 600, 1])
    normal = normalise(waveforms, num_samples)
    for row, length in zip(normal, num_samples.tolist(), strict=True):
        assert torch.all(row[length:] == 0.0)
        assert row[:length].mean().abs() < 1e-5
    assert normal[1, :600].var(correction=0) == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(normal[:1], normalise(waveforms[:1]))
    torch.testing.assert_close(normal[1:2, :600], normalise(waveforms[1:2, :600]), atol=1e-5, rtol=0)


def test_normalising_twice_is_the_same_as_once():
    waveforms, num_samples = torch.randn(2, 900), torch.tensor([900, 500])
    once = normalise(waveforms, num_samples)
    torch.testing.assert_close(normalise(once, num_samples), once, atol=1e-4, rtol=0)


def test_frame_lengths_match_the_network():
    stack: Any = Detector(DetectorConfig(VARIANTS["tiny"])).front_end.feature_extractor
    for length in (400, 719, 720, 721, 16_000):
        frames = stack(torch.zeros(1, length), None)
        assert frames.shape[1] == frame_lengths(torch.tensor([length])).item()
    assert frame_lengths(torch.tensor([1])).item() == 1
    assert frame_lengths(torch.tensor([2**40 + 80])).item() == 2**40 // 320


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_autocast_is_close_to_float32_and_returns_float32(family):
    detector = make_detector(VARIANTS[family])
    waveforms = pad_sequence(make_clips((16_000, 9_000)), batch_first=True)
    num_samples = torch.tensor([16_000, 9_000])
    with torch.inference_mode():
        exact = detector(waveforms, num_samples).logits
        with torch.autocast("cpu", torch.bfloat16):
            rounded = detector(waveforms, num_samples).logits
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0)


def test_activation_checkpointing_changes_no_gradient():
    config = replace(VARIANTS["tiny_group"], dropout=0.1, layer_drop=0.5)
    gradients = []
    for is_checkpointing in (False, True):
        torch.manual_seed(0)
        detector = Detector(DetectorConfig(config))
        detector.encoder.activation_checkpointing = is_checkpointing
        detector(torch.stack(make_clips((2_000, 2_000)))).logits.sum().backward()
        gradients.append([parameter.grad for parameter in detector.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_every_weight_of_a_dropped_layer_has_a_gradient():
    detector = Detector(DetectorConfig(replace(VARIANTS["tiny"], layer_drop=1.0)))
    detector(torch.stack(make_clips((2_000,)))).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    encoder: Any = detector.encoder
    assert all(torch.all(parameter.grad == 0.0) for parameter in encoder.layers.parameters())


def test_the_gradient_of_the_convolutions_is_scaled():
    gradients = []
    for scale in (1.0, 0.1):
        detector = make_detector(replace(VARIANTS["tiny"], conv_gradient_scale=scale))
        detector(torch.stack(make_clips((2_000,)))).logits.sum().backward()
        stack: Any = detector.front_end.feature_extractor
        gradients.append(stack.conv_layers[0]["0"].weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * 0.1)


def test_the_torch_seed_determines_the_weights():
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat(
            [parameter.flatten() for parameter in Detector(DetectorConfig(VARIANTS["tiny"])).parameters()]
        )

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_the_published_variants_have_their_published_sizes():
    expected = {"w2v_small": 95, "mms_300m": 317, "xlsr_1b": 965, "xlsr_2b": 2_200, "hubert_xl": 964}
    for name, millions in expected.items():
        with torch.device("meta"):
            front_end = Detector(DetectorConfig(VARIANTS[name])).m_ssl
        size = sum(parameter.numel() for parameter in front_end.parameters())
        assert size / 1e6 == pytest.approx(millions, rel=0.02), name


def test_an_impossible_shape_is_rejected():
    with pytest.raises(ValueError, match="num_heads 5"):
        replace(VARIANTS["tiny"], num_heads=5)
