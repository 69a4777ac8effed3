"""Heads: frame logits, hidden states, and what a second head needs: a class, an entry in `HEADS` and a test."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Config, Wav2Vec2Model

from pipeline.detector.checkpoint import load_detector, load_weights, save_detector
from pipeline.detector.config import LossConfig
from pipeline.detector.formats import read_checkpoint
from pipeline.detector.header import copy_with_metadata
from pipeline.detector.heads import HEADS, Head, MultiHeadFactorisedAttention
from pipeline.detector.huggingface import export_transformers, transformers_settings
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig, EncoderConfig, frame_lengths
from pipeline.detector.scoring import Scorer
from pipeline.detector.training import train
from pipeline.detector.transformer import HiddenStates
from pipeline.detector.variants import HeadConfig, HeadName
from pipeline.errors import InputError
from tests.detector.toys import (
    FAMILIES,
    TOY,
    Log,
    assert_same_weights,
    copy,
    make_clips,
    make_detector,
    run,
    toy_batches,
    toy_config,
)

LENGTHS = (9_000, 7_000, 799, 400, 20)


class LayerWeighted(Head):
    """A learnt mixture of all hidden states, attentive pooling, and one hidden layer."""

    def __init__(self, front_end: EncoderConfig, _: HeadConfig) -> None:
        super().__init__()
        self.layers = tuple(range(front_end.num_layers + 1))
        self.mixture = nn.Parameter(torch.zeros(len(self.layers)))
        self.attention = nn.Linear(front_end.width, 1)
        self.hidden = nn.Linear(front_end.width, 8)
        self.output = nn.Linear(8, 2)

    def pool(self, hidden_BFC: Sequence[Tensor], valid_BF: Tensor | None) -> Tensor:
        weights = self.mixture.softmax(dim=0)
        mixed_BFC = (torch.stack(list(hidden_BFC), dim=3) * weights).sum(dim=3)
        attention_BF = self.attention(mixed_BFC)[:, :, 0]
        if valid_BF is not None:
            mixed_BFC = mixed_BFC.where(valid_BF[:, :, None], 0.0)
            attention_BF = attention_BF.masked_fill(~valid_BF, -torch.inf)
        pooled_BC = (attention_BF.softmax(dim=1)[:, :, None] * mixed_BFC).sum(dim=1)
        embedding_BE: Tensor = self.hidden(pooled_BC)
        return embedding_BE

    def forward(self, embedding_BE: Tensor) -> Tensor:
        logits_B2: Tensor = self.output(embedding_BE.relu())
        return logits_B2


LAYER_WEIGHTED = DetectorConfig(TOY, HeadConfig(cast("HeadName", "layer_weighted")))
MHFA = DetectorConfig(TOY, HeadConfig("mhfa", num_heads=4, compression_width=16, embedding_width=24))


@pytest.fixture
def second_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "layer_weighted", LayerWeighted)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_of_the_frame_logits_is_the_logits_of_the_utterance(family: str) -> None:
    detector = make_detector(VARIANTS[family])
    num_samples = torch.tensor(LENGTHS)
    waveforms = pad_sequence(make_clips(LENGTHS), batch_first=True)
    with torch.inference_mode():
        output = detector(waveforms, num_samples, with_frame_logits=True)
    logits, embedding, frame_logits = output.logits, output.embedding, output.frame_logits
    assert (logits.shape, embedding.shape) == ((5, 2), (5, 64))
    assert frame_logits.shape == (5, 27, 2)
    for row, num_frames, expected in zip(frame_logits, frame_lengths(num_samples), logits, strict=True):
        torch.testing.assert_close(row[:num_frames].mean(dim=0), expected, atol=1e-5, rtol=0)
        assert torch.all(row[num_frames:] == 0.0)
    assert frame_logits[0].std(dim=0).min() > 1e-2, "equal frames would prove nothing"


def test_frame_logits_are_computed_only_on_request() -> None:
    detector = make_detector(VARIANTS["tiny"])
    waveforms = torch.stack(make_clips((2_000, 2_000)))
    with torch.inference_mode():
        assert detector(waveforms).frame_logits is None
        output = detector(waveforms, with_frame_logits=True)
    torch.testing.assert_close(output.frame_logits.mean(dim=1), output.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_match_those_of_transformers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    oracle: Any = Wav2Vec2Model(Wav2Vec2Config.from_dict(transformers_settings(VARIANTS[family]))).eval()
    oracle.save_pretrained(tmp_path)
    detector = load_detector(tmp_path, accept_front_end=True).detector
    waveforms = torch.stack(make_clips((4_000, 4_000)))
    with torch.inference_mode():
        output = oracle(waveforms, output_hidden_states=True)
        hidden, valid, _ = detector.front_end(waveforms, None, (2, 0, 1, -1))
    assert valid is None
    last = output.last_hidden_state  # after the final layer norm, which `hidden_states` leaves out
    for ours, expected in zip(hidden, (last, *output.hidden_states[:2], last), strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


@pytest.mark.usefixtures("second_head")
@pytest.mark.parametrize(
    ("config", "module"), [(LAYER_WEIGHTED, "classifier"), (MHFA, "mhfa")], ids=["layer_weighted", "mhfa"]
)
def test_a_second_head_trains_saves_and_loads(config: DetectorConfig, module: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(config)
    start = {name: weight.clone() for name, weight in detector.state_dict().items()}
    log = Log()
    train(detector, toy_batches, toy_config(6), log)
    assert not [name for name, weight in detector.state_dict().items() if torch.equal(weight, start[name])]
    assert {name.split(".")[0] for name in start} == {"m_ssl", module}
    save_detector(detector, tmp_path / "x", {})
    loaded = load_detector(tmp_path / "x").detector
    assert loaded.config == config
    assert_same_weights(loaded.state_dict(), detector.state_dict())
    clips = [clip.numpy() for clip in make_clips(LENGTHS)]
    together = Scorer(loaded).score(clips)
    for clip, logits in zip(clips, together, strict=True):
        np.testing.assert_allclose(Scorer(loaded).score([clip])[0], logits, atol=1e-5)


@pytest.mark.usefixtures("second_head")
def test_a_second_head_starts_from_a_bare_front_end_but_not_from_another_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    released, detector = Detector(DetectorConfig(TOY)), Detector(LAYER_WEIGHTED)
    weights = {name: t for name, t in released.state_dict().items() if name.startswith("m_ssl.")}
    bare = {name.removeprefix("m_ssl.model."): tensor for name, tensor in weights.items()}
    torch.save({"model": bare}, tmp_path / "bare.pt")
    head = {name: tensor.clone() for name, tensor in detector.head.state_dict().items()}
    filled = load_weights(detector, tmp_path / "bare.pt", accept_front_end=True)
    assert "the head keeps its initial weights" in filled.coverage
    assert_same_weights(head, detector.head.state_dict())
    assert_same_weights(weights, {name: detector.state_dict()[name] for name in weights})
    save_detector(released, tmp_path / "mean_linear", {})
    with pytest.raises(InputError, match="its head is mean_linear instead of layer_weighted"):
        load_weights(detector, tmp_path / "mean_linear")


def test_a_head_without_frame_logits_direction_or_export_is_an_error_that_names_it(tmp_path: Path) -> None:
    detector = Detector(MHFA)
    with pytest.raises(InputError, match="MultiHeadFactorisedAttention head has no frame logits"):
        detector(torch.zeros(1, 800), with_frame_logits=True)
    with pytest.raises(InputError, match="direction that a MultiHeadFactorisedAttention head does not have"):
        train(detector, toy_batches, toy_config(1, loss=LossConfig(name="oc_softmax")), Log())
    with pytest.raises(InputError, match="no class for a mhfa head"):
        export_transformers(detector, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def make_attentive(family: str) -> Detector:
    """A detector whose heads differ in what they attend to."""
    detector = make_detector(DetectorConfig(VARIANTS[family], MHFA.head))
    with torch.no_grad():
        for weight in detector.head.parameters():
            weight.mul_(4)
    return detector


@pytest.mark.parametrize("family", FAMILIES)
def test_multi_head_factorised_attention_matches_its_definition(family: str) -> None:
    detector = make_attentive(family)
    head = detector.head
    assert isinstance(head, MultiHeadFactorisedAttention)
    waveforms = torch.stack(make_clips((4_000, 4_000)))
    with torch.inference_mode():
        output = detector(waveforms)
        states = detector.front_end(waveforms, None, (0, 1, 2)).hidden
        keys, values = (
            sum(weight * state for weight, state in zip(mixture.softmax(dim=0), states, strict=True))
            for mixture in (head.key_mixture, head.value_mixture)
        )
        values = values @ head.value.weight.T + head.value.bias
        means = []
        for direction in head.attention.weight @ head.key.weight:  # one for each head
            share = (keys @ direction).softmax(dim=1)
            means.append((share[:, :, None] * values).sum(dim=1))
        expected = head.embedding(torch.cat(means, dim=1))
        logits = head.output(expected)
    assert not torch.allclose(means[0], means[1], atol=1e-3), "equal heads would prove nothing"
    torch.testing.assert_close(output.embedding, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_over_all_layers_ignores_padding_and_takes_one_frame(family: str) -> None:
    detector = make_attentive(family)
    clips = make_clips(LENGTHS)
    with torch.inference_mode():
        together = detector(pad_sequence(clips, batch_first=True), torch.tensor(LENGTHS)).logits
        alone = torch.cat([detector(clip[None]).logits for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert alone.std(dim=0).min() > 0.5, "equal logits would prove nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_summed_in_float32(dtype: torch.dtype) -> None:
    states = [torch.randn(2, 5, 8).to(dtype).requires_grad_() for _ in range(3)]
    weights = torch.rand(2, 3, requires_grad=True)
    hidden = HiddenStates((0, 1, 2), weights)
    with torch.autocast("cpu", dtype):
        for index, state in enumerate(states):
            hidden.add(index, state)
    sums = torch.stack(hidden.collected())
    assert sums.dtype == torch.float32
    exact = torch.stack([state.detach().float() for state in states])
    torch.testing.assert_close(sums, torch.einsum("sn,nbfc->sbfc", weights, exact))
    sums.sum().backward()
    torch.testing.assert_close(weights.grad, exact.sum(dim=(1, 2, 3)).expand(2, 3))
    assert {state.grad.dtype for state in states if state.grad is not None} == {dtype}


def test_a_head_that_sums_its_layers_keeps_no_layer_at_inference() -> None:
    hidden = HiddenStates((0, 1), torch.ones(2, 2))
    frames = torch.ones(1, 3, 4)
    alive = weakref.ref(frames)
    hidden.add(0, frames)
    del frames
    assert alive() is None
    hidden.add(1, torch.ones(1, 3, 4))
    assert torch.equal(torch.stack(hidden.collected()), torch.full((2, 1, 3, 4), 2.0))


@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_attention_over_all_layers_trains_and_resumes_bit_for_bit(is_checkpointing: bool) -> None:
    config = toy_config(6, precision="bf16", activation_checkpointing=is_checkpointing)
    uninterrupted, log, _ = run(config, detector_config=MHFA)
    resumed, later, _ = run(config, detector_config=MHFA, state=log.states[5])
    assert log.losses[6] < log.losses[1]
    assert later.losses == {6: log.losses[6]}
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    ("start", "is_released"),
    [
        (DetectorConfig(TOY), True),
        (DetectorConfig(TOY), False),
        (DetectorConfig(TOY, replace(MHFA.head, num_heads=2)), False),
    ],
    ids=["released", "mean_linear", "other_settings"],
)
def test_a_training_takes_the_front_end_of_a_detector_with_another_head(
    start: DetectorConfig, is_released: bool, tmp_path: Path
) -> None:
    other, detector = Detector(start), Detector(MHFA)
    digest = save_detector(other, tmp_path / "other", {})
    if is_released:
        torch.save(other.state_dict(), tmp_path / "other")
    head = copy(detector.head.state_dict())
    with pytest.raises(InputError, match=r"missing: mhfa\.|its head is"):
        load_weights(detector, tmp_path / "other")
    filled = load_weights(detector, tmp_path / "other", accept_front_end=True)
    assert f"its {start.head} head is left out, the head keeps its initial weights" in filled.coverage
    assert filled.digest == digest, "a registered detector is compared with its digest"
    assert_same_weights(head, detector.head.state_dict())
    assert_same_weights(other.front_end.state_dict(), detector.front_end.state_dict())
    save_detector(detector, tmp_path / "mhfa", {})
    back = Detector(start)
    load_weights(back, tmp_path / "mhfa", accept_front_end=True)
    assert_same_weights(other.front_end.state_dict(), back.front_end.state_dict())


def test_a_training_with_another_head_starts_from_a_model_of_transformers(tmp_path: Path) -> None:
    config = VARIANTS["tiny"]
    oracle: Any = Wav2Vec2Model(Wav2Vec2Config.from_dict(transformers_settings(config)))
    oracle.save_pretrained(tmp_path / "bare")
    released = Detector(DetectorConfig(config))
    export_transformers(released, tmp_path / "classifier")
    detector = Detector(DetectorConfig(config, MHFA.head))
    bare = load_weights(detector, tmp_path / "bare", accept_front_end=True)
    assert bare.coverage.endswith("the head keeps its initial weights")
    assert "left out" not in bare.coverage
    classifier = load_weights(detector, tmp_path / "classifier", accept_front_end=True)
    assert "its mean_linear head is left out" in classifier.coverage
    assert_same_weights(released.front_end.state_dict(), detector.front_end.state_dict())


def test_a_file_that_does_not_name_its_head_has_that_of_the_released_detectors(tmp_path: Path) -> None:
    detector = Detector(DetectorConfig(TOY))
    save_detector(detector, tmp_path / "x", {})
    described = json.loads(read_checkpoint(tmp_path / "x").metadata["detector"])
    assert described.pop("head") == {"name": "mean_linear"}, "settings of other heads are left out"
    with (tmp_path / "x").open("rb") as source, (tmp_path / "y").open("wb") as target:
        copy_with_metadata(source, target, {"detector": json.dumps(described)})
    assert load_detector(tmp_path / "y").detector.config == detector.config


def test_settings_of_a_head_are_checked() -> None:
    with pytest.raises(InputError, match=r"--num-heads has no effect on mean_linear; .* add --name mhfa"):
        HeadConfig(num_heads=4)
    with pytest.raises(InputError, match="--compression-width 0: expected numbers from 1 to 8,192"):
        HeadConfig("mhfa", compression_width=0)


def test_the_metadata_of_a_saved_file_describes_front_end_and_head(tmp_path: Path) -> None:
    config = DetectorConfig(replace(TOY, layer_drop=0.25), MHFA.head)
    save_detector(Detector(config), tmp_path / "x", {})
    contents = read_checkpoint(tmp_path / "x")
    assert (contents.format, contents.config) == ("bonafide", config)


def test_an_unknown_head_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown head 'sls'; known: mean_linear, mhfa"):
        Detector(DetectorConfig(TOY, HeadConfig(cast("HeadName", "sls"))))
