"""One rank of a training: detector, loss, optimiser and data; takes steps, saves and restores states."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW

from pipeline.detector import parallel
from pipeline.detector.average import WeightAverage
from pipeline.detector.batch import Batch
from pipeline.detector.config import OptimiserConfig, TrainingConfig, Weights, learning_rate
from pipeline.detector.lora import adapt
from pipeline.detector.losses import FrameLoss, Loss, make_loss
from pipeline.detector.meter import Meter, StepRequests, StepStats
from pipeline.detector.network import Detector, DetectorOutput
from pipeline.detector.precision import autocast, tf32_policy
from pipeline.detector.state import NonFiniteError, TrainingProgress, TrainingState
from pipeline.detector.stream import Batches, Stream
from pipeline.detector.validation import Validation, validate
from pipeline.metrics import Group

# B: utterances, T: samples at 16 kHz, C: channels, 2: the logits of (spoof, bonafide).


class Trainer:
    """Detector, loss, optimiser and data stream of one rank."""

    def __init__(self, detector: Detector, batches: Batches, config: TrainingConfig) -> None:
        self.config = config
        self.detector = detector
        self.device = detector.device
        self.rank, self.world = parallel.rank_and_world()
        self.loss = make_loss(config, detector)
        self.frame_loss = make_frame_loss(config, detector)
        self.reference = prepare(detector, config, self.loss)
        _seed(config.seed, 0, self.rank)
        self.model: nn.Module = detector
        self.criterion: nn.Module = self.loss
        if self.world > 1 and config.strategy == "fsdp":
            parallel.shard(detector, self.loss, config.precision, self.reference)
        elif self.world > 1:
            self.model, self.criterion = parallel.replicate(detector, self.loss)
        named = {name: weight for name, weight in detector.named_parameters() if weight.requires_grad}
        self.average = WeightAverage(named, config.ema.decay) if config.ema.decay else None
        named |= {f"loss.{name}": weight for name, weight in self.loss.named_parameters()}
        self.names, self.weights = list(named), list(named.values())
        self.optimiser = make_optimiser(self.weights, config.optimiser)
        self.scaler = GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.stream = Stream(batches, 0, 0, self.world)

    def step(
        self, progress: TrainingProgress, meter: Meter, requests: StepRequests
    ) -> tuple[TrainingProgress, StepRequests]:
        """Take one optimiser step, or skip it on all ranks if a loss or gradient is not finite on any.

        Args:
            progress: the position before the step.
            meter: counts the step.
            requests: what this rank requests.

        Returns:
            The position after the step, and the requests of all ranks together.

        Raises:
            NonFiniteError: too many steps were skipped.
        """
        rate = learning_rate(progress.step + 1, self.config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.detector.train()
        self.optimiser.zero_grad(set_to_none=True)
        has_reference = self.config.loss.has_reference
        stats = StepStats(self.detector.config, self.config.lora, has_reference=has_reference)
        with tf32_policy(self.device, self.config.precision):
            for position in range(self.config.num_accumulated):
                is_last = position == self.config.num_accumulated - 1
                stats.add(*self._backward(is_last))
        self.scaler.unscale_(self.optimiser)
        norm = parallel.full_tensor(gradient_norm(self.weights))
        loss, is_finite, requests = stats.reduce(norm, self.device, requests)
        progress = replace(
            progress,
            step=progress.step + 1,
            epoch=self.stream.epoch,
            batch=self.stream.batch,
            world=self.world,
        )
        is_calibrating = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if is_finite:
            clip(self.weights, norm, self.config.optimiser.clip_norm)
            self.scaler.step(self.optimiser)
            progress = replace(progress, num_updates=progress.num_updates + 1)
            if self.average is not None:
                self.average.update(progress.num_updates)
        elif not (is_calibrating and math.isfinite(loss)):  # fp16 finds its loss scale by overflowing
            progress = self._count_skipped(progress, stats)
        if self.scaler.is_enabled():
            self.scaler.update()
        meter.add(stats, loss, float(norm), rate)
        return progress, requests

    def _backward(self, is_last: bool) -> tuple[Tensor, Tensor | None, Batch, float]:
        started = time.perf_counter()
        batch = self.stream.take()
        wait_s = time.perf_counter() - started
        waveform_BT = batch.waveform.to(self.device, non_blocking=True)
        label_B = batch.label.to(self.device, non_blocking=True)
        with parallel.gradient_sync((self.model, self.criterion), is_last):
            with autocast(self.device, self.config.precision):
                # Lengths stay on the CPU: there the detector can see without a device sync that nothing is padded.
                reference_B2 = reference_logits(self.reference, waveform_BT, batch.num_samples)
                output: DetectorOutput = self.model(
                    waveform_BT, batch.num_samples, with_frame_logits=self.frame_loss is not None
                )
            loss: Tensor = self.criterion(output.logits, output.embedding, label_B, reference_B2)
            frame_loss = frame_loss_of(self.frame_loss, output, batch.frame_label)
            if frame_loss is not None:
                loss = loss + self.config.loss.frame_weight * frame_loss
            torch.autograd.backward(self.scaler.scale(loss / self.config.num_accumulated))
        return loss.detach(), None if frame_loss is None else frame_loss.detach(), batch, wait_s

    def _count_skipped(self, progress: TrainingProgress, stats: StepStats) -> TrainingProgress:
        uids = tuple(sorted(parallel.gather_lists(stats.bad_uids))) or tuple(
            sorted(parallel.gather_lists(stats.uids))
        )
        progress = replace(
            progress,
            num_skipped=progress.num_skipped + 1,
            skipped_uids=tuple(dict.fromkeys((*progress.skipped_uids, *uids))),
        )
        if progress.num_skipped > self.config.max_skipped_steps:
            raise NonFiniteError(
                f"step {progress.step}: {progress.num_skipped} steps had a loss or gradient that is not finite; "
                f"their utterances: {', '.join(progress.skipped_uids)}"
            )
        return progress

    def validate(
        self, batches: Callable[[], Iterable[Batch]], group_of: Mapping[str, Group]
    ) -> list[Validation]:
        """Measure the weights, and then their average if there is one, on the validation batches of all ranks."""

        def measure(weights: Weights) -> Validation:
            precision = self.config.precision
            return validate(
                self.detector, batches(), self.device, group_of, weights=weights, precision=precision
            )

        with tf32_policy(self.device, self.config.precision):
            validations = [measure("raw")]
            if self.average is not None:
                with self.average.swapped_in():
                    validations.append(measure("ema"))
        return validations

    def state(self, progress: TrainingProgress) -> TrainingState:
        """Collect the content of a checkpoint from all ranks."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "detector": parallel.gather_to_rank_0(self.detector.state_dict()),
            "average": parallel.gather_to_rank_0(self.average.tensors if self.average else {}),
            "loss": parallel.gather_to_rank_0(self.loss.state_dict()),
            "optimiser": parallel.gather_moments_to_rank_0(self.optimiser, self.names),
            "scaler": self.scaler.state_dict(),
            "rng": parallel.gather_lists([rng]),
            "progress": asdict(progress),
        }

    def restore(self, state: TrainingState | None) -> TrainingProgress:
        """Restore the checkpoint of rank 0, if it has one; another number of ranks continues the same epoch."""
        small = {name: state[name] for name in ("scaler", "rng", "progress")} if state else None
        small = parallel.broadcast_object(small)
        if small is None:
            return TrainingProgress(world=self.world)
        state = state or {}
        parallel.broadcast(state.get("detector", {}), self.detector.state_dict(), "detector")
        average = self.average.tensors if self.average else {}
        parallel.broadcast(state.get("average", {}), average, "average of the weights")
        parallel.broadcast(state.get("loss", {}), self.loss.state_dict(), "loss")
        parallel.broadcast_moments(state.get("optimiser", {}), self.optimiser, self.names)
        self.scaler.load_state_dict(small["scaler"])
        progress = TrainingProgress(
            **{**small["progress"], "skipped_uids": tuple(small["progress"]["skipped_uids"])}
        )
        if self.world == progress.world:
            rng = small["rng"][self.rank]
            torch.set_rng_state(rng["cpu"])
            if self.device.type == "cuda" and "cuda" in rng:
                torch.cuda.set_rng_state(rng["cuda"], self.device)
        else:
            _seed(self.config.seed, progress.step, self.rank)
        self.stream = Stream(self.stream.batches, progress.epoch, progress.batch, self.world)
        return replace(progress, world=self.world, is_interrupted=False)


def prepare(detector: Detector, config: TrainingConfig, loss: Loss) -> Detector | None:
    """Set up a detector for training, in place; only low-rank adaptation adds weights and freezes others.

    Returns:
        A frozen copy without dropout, if the loss compares the detector with it. It is in no checkpoint: a resumed
        training copies the same weights, because it prepares the detector before it restores a checkpoint.
    """
    reference = None
    if config.loss.has_reference:
        reference = copy.deepcopy(detector).requires_grad_(False).eval()
        reference.pretraining_tensors = {}
    adapt(detector, config.lora, config.seed)
    detector.is_head_probe = loss.is_head_probe
    detector.encoder.activation_checkpointing = config.activation_checkpointing
    for model in (detector, reference):
        if model is not None and config.compile:
            compile_layers(model)
    return reference


def make_frame_loss(config: TrainingConfig, detector: Detector) -> FrameLoss | None:
    """Build the loss of frames on the device of the detector; None if they have no weight."""
    return FrameLoss(config).to(detector.device) if config.loss.frame_weight else None


def frame_loss_of(
    frame_loss: FrameLoss | None, output: DetectorOutput, frame_label_BF: Tensor | None
) -> Tensor | None:
    """Compute the loss of the frames of a batch; None if frames have no weight.

    Args:
        frame_loss: from `make_frame_loss`.
        output: of the detector, with frame logits.
        frame_label_BF: labels of the frames.
    """
    if frame_loss is None:
        return None
    assert output.frame_logits is not None
    assert frame_label_BF is not None, "batches for a frame loss have frame labels"
    label_BF = frame_label_BF.to(output.frame_logits.device, non_blocking=True)
    loss: Tensor = frame_loss(output.frame_logits, label_BF)
    return loss


def reference_logits(reference: Detector | None, waveform_BT: Tensor, num_samples_B: Tensor) -> Tensor | None:
    """Classify a batch [B, T] with the frozen copy that `prepare` made: [B, 2]; None without one.

    Call it before the forward pass of the detector, whose activations take memory until the backward pass.
    """
    if reference is None:
        return None
    with torch.no_grad():
        logits_B2: Tensor = reference(waveform_BT, num_samples_B).logits
    parallel.release_forward(reference)
    return logits_B2


def compile_layers(detector: Detector, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile each layer in place; layers of equal shape share their graphs, for any length."""
    for layer in detector.encoder.layers:
        layer.compile(dynamic=True, backend=backend)


def make_optimiser(weights: Sequence[Tensor], config: OptimiserConfig) -> AdamW:
    """Build AdamW over float32 weights, in the configured implementation."""
    return AdamW(
        weights,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        eps=config.epsilon,
        fused=config.implementation in ("auto", "fused"),
        foreach=config.implementation == "foreach",
    )


def gradient_norm(weights: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together."""
    return nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def clip(weights: Sequence[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale gradients down to a norm. Unlike `clip_grad_norm_`, smaller gradients are not multiplied by one."""
    if float(norm) > max_norm:
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)


def _seed(seed: int, step: int, rank: int) -> None:
    """Give each rank its own stream of dropout masks."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**64)
