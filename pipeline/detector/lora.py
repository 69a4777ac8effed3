"""Low-rank adaptation (LoRA; Hu et al., 2021): a frozen front end with small trainable updates of its matrices.

A matrix W of the transformer becomes W + alpha / rank · B A, where A has `rank` rows and B has `rank` columns. Only A,
B and the head are trained. In the state of a training, `lora_a` and `lora_b` are beside the `weight` that they adapt;
a saved detector has their product added to that weight and is an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.detector.config import LoraConfig, LoraTargets
from pipeline.detector.initial import draw_normal_
from pipeline.detector.network import Detector
from pipeline.detector.transformer import Layer

# I: input channels of a linear layer, O: its output channels, R: rank.


class AdaptedLinear(nn.Linear):
    """A frozen linear layer with a low-rank update, under the names of the layer that it replaces."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        """Adapt a layer; it computes the same as before until B is trained.

        Args:
            linear: its parameters become those of this layer.
            config: rank and scale.
            generator: draws A, on the CPU, so that all ranks and devices start with the same values.
        """
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = config.alpha / config.rank
        is_meta = linear.weight.is_meta
        lora_a_RI = torch.empty(config.rank, linear.in_features, device="meta" if is_meta else "cpu")
        draw_normal_(lora_a_RI, std=linear.in_features**-0.5, generator=generator)
        self.lora_a = nn.Parameter(lora_a_RI.to(linear.weight.device))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, config.rank))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Apply the layer [..., I] → [..., O]."""
        update = F.linear(self.scale * F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + update

    def merged(self) -> nn.Linear:
        """Build an ordinary layer that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight = nn.Parameter(self.merged_weight())
        linear.bias = self.bias
        return linear

    def merged_weight(self) -> Tensor:
        """The weight [O, I] of an ordinary layer that computes the same."""
        return torch.addmm(self.weight.detach(), self.lora_b.detach(), self.lora_a.detach(), alpha=self.scale)


def adapt(detector: Detector, config: LoraConfig, seed: int) -> None:
    """Freeze the front end and add adapters to its transformer, in place.

    Adapters of an earlier training are merged first. With rank 0, no others are added and nothing is frozen.

    Args:
        detector: its results do not change until the adapters are trained.
        config: rank, scale and which matrices to adapt.
        seed: determines the initial adapters.

    Raises:
        InputError: the rank does not fit the front end.
    """
    config.check_fits(detector.config.front_end)
    _merge_adapters(detector)
    if not config.rank:
        return
    detector.front_end.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parent, name in _matrices(detector, config.targets):
        setattr(parent, name, AdaptedLinear(getattr(parent, name), config, generator))


def _merge_adapters(detector: Detector) -> None:
    """Make an adapted detector an ordinary one, whose weights are all trained, in place."""
    for parent, name in _matrices(detector, "both"):
        linear = getattr(parent, name)
        if isinstance(linear, AdaptedLinear):
            setattr(parent, name, linear.merged())
            detector.front_end.requires_grad_(True)


def _matrices(detector: Detector, targets: LoraTargets) -> Iterator[tuple[nn.Module, str]]:
    """The linear layers that can be adapted, as module and attribute."""
    for layer in detector.encoder.layers:
        assert isinstance(layer, Layer)
        if targets != "feed_forward":
            yield from ((layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
        if targets != "attention":
            yield from ((layer, name) for name in ("fc1", "fc2"))


def merged_state(detector: Detector) -> dict[str, Tensor]:
    """The weights of a detector in the released layout, with its adapters, if any, added to what they adapt."""
    state = dict(detector.state_dict())
    for name, module in detector.named_modules():
        if isinstance(module, AdaptedLinear):
            state[f"{name}.weight"] = module.merged_weight()
            del state[f"{name}.lora_a"], state[f"{name}.lora_b"]
    return state
