"""The most seconds of audio that fit into a batch of one device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.detector.config import TrainingConfig
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from pipeline.detector.network import Detector
from pipeline.errors import InputError

SAFETY = 0.9
"""Of what fits is taken: memory falls into pieces over a long training, and ranks keep room for each other."""


def largest(fits: Callable[[int], bool], at_most: int) -> int:
    """The largest whole number from 0 to `at_most` that fits, where all smaller ones do as well.

    Few numbers beyond it are asked about, and none far beyond: it doubles from 1, then halves the gap.
    """
    fitting, number = 0, 1
    while number <= at_most and fits(number):
        fitting, number = number, max(number + 1, min(2 * number, at_most))
    beyond = min(number, at_most + 1)
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        if fits(middle):
            fitting = middle
        else:
            beyond = middle
    return fitting


def find_batch_seconds(
    detector: Detector,
    config: TrainingConfig,
    *,
    utterance_s: float = 13.0,
    at_most_s: float = 2000.0,
    say: Callable[[str], None] = print,
) -> float:
    """Find the `max_seconds` of a batch by steps on the GPU of a detector, whose weights stay as they are.

    utterance_s: the longest utterance of the training; batches of shorter ones need less memory for as many
    seconds. Each rank of several that shard a detector needs less than what is found here, which is for a device
    that holds all of it.
    Raises InputError on a CPU, and when not even one utterance fits.
    """
    device = detector.proj_fc.weight.device
    if device.type != "cuda":
        raise InputError(
            "the largest batch is found by filling the memory of a GPU, and there is none; choose "
            "--batch.max-seconds by hand"
        )
    was_training = detector.training
    with torch.random.fork_rng(devices=[device]):
        num_utterances = _search(detector, config, utterance_s, int(at_most_s // utterance_s), say)
    torch.cuda.empty_cache()
    detector.train(was_training)
    if not num_utterances:
        raise InputError(
            f"one utterance of {utterance_s:g} s does not fit into the memory of {torch.cuda.get_device_name(device)}; "
            "use --training.activation-checkpointing true, --training.strategy fsdp or a smaller variant"
        )
    return max(utterance_s, SAFETY * num_utterances * utterance_s)


def _search(
    detector: Detector, config: TrainingConfig, utterance_s: float, at_most: int, say: Callable[[str], None]
) -> int:
    """Try batches of more and more utterances; what a trial took is free again when this returns."""
    trial = prepare_dry_run(detector, config)

    def fits(num_utterances: int) -> bool:
        is_fitting = True
        try:
            for _ in range(2):  # the optimiser takes its memory in the first step
                trial.step(make_noise(num_utterances, utterance_s, trial.device))
            torch.cuda.synchronize(trial.device)
        except torch.cuda.OutOfMemoryError:
            is_fitting = False
        # After the except clause: until its end the error keeps the tensors of the step.
        detector.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        say(f"a batch of {num_utterances * utterance_s:.0f} s {'fits' if is_fitting else 'does not fit'}")
        return is_fitting

    return largest(fits, at_most)
