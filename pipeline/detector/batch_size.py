"""Find how many seconds of audio fit into a batch on one GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.config import TrainingConfig
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from pipeline.detector.memory import SAFETY, Inference
from pipeline.detector.memory_limit import free_bytes
from pipeline.detector.network import Detector
from pipeline.errors import InputError


def largest(fits: Callable[[int], bool], at_most: int) -> int:
    """Find the largest integer from 0 to `at_most` that fits, given that all smaller ones fit.

    Doubling from 1 and then bisecting keeps failing attempts few, and none is more than twice the result.
    """
    fitting, number = 0, 1
    while number <= at_most and fits(number):
        fitting, number = number, max(number + 1, min(2 * number, at_most))
    too_large = min(number, at_most + 1)
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if fits(middle):
            fitting = middle
        else:
            too_large = middle
    return fitting


def find_batch_seconds(
    detector: Detector,
    config: TrainingConfig,
    *,
    utterance_s: float = 13.0,
    at_most_s: float = 2000.0,
    print_line: Callable[[str], None] = print,
) -> float:
    """Find the largest `max_seconds` of a batch by taking dry-run steps.

    The detector's weights do not change; with low-rank adaptation, it has adapters without effect afterwards.

    The result is for a GPU that holds the whole detector. Ranks that shard a detector could take more.

    Args:
        detector: on the GPU to measure.
        config: settings of the training.
        utterance_s: longest utterance of the training; shorter ones need less memory for the same seconds.
        at_most_s: largest batch to try.
        print_line: receives one line per attempt.

    Returns:
        Seconds of audio, padding included.

    Raises:
        InputError: the detector is on a CPU, or not even one utterance fits.
    """
    device = detector.device
    if device.type != "cuda":
        raise InputError(
            "finding the largest batch needs a GPU, and there is none; set --batch.max-seconds by hand"
        )
    was_training = detector.training
    # What does not fit at inference cannot be trained on, and need not be tried.
    inference = Inference(detector.config.front_end, config.precision, device.type, head=detector.config.head)
    num_fitting = inference.max_utterances(round(utterance_s * SAMPLE_RATE), free_bytes(device))
    at_most = min(int(at_most_s // utterance_s), num_fitting)
    with torch.random.fork_rng(devices=[device]):
        num_utterances = _search(detector, config, utterance_s, at_most, print_line)
    torch.cuda.empty_cache()
    detector.train(was_training)
    if not num_utterances:
        raise InputError(
            f"one utterance of {utterance_s:g} s does not fit into the memory of {torch.cuda.get_device_name(device)}; "
            "use --training.activation-checkpointing true, --training.strategy fsdp or a smaller variant"
        )
    return max(utterance_s, SAFETY * num_utterances * utterance_s)


def _search(
    detector: Detector,
    config: TrainingConfig,
    utterance_s: float,
    at_most: int,
    print_line: Callable[[str], None],
) -> int:
    """Find how many utterances fit into a batch; the memory of the dry run is released on return."""
    dry_run = prepare_dry_run(detector, config)

    def fits(num_utterances: int) -> bool:
        is_fitting = True
        try:
            for _ in range(2):  # the optimiser allocates its moments in the first step
                dry_run.step(make_noise(num_utterances, utterance_s, dry_run.device))
            torch.cuda.synchronize(dry_run.device)
        except torch.cuda.OutOfMemoryError:
            is_fitting = False
        # Only after the except clause, because the exception holds on to the tensors of the step.
        detector.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        print_line(
            f"a batch of {num_utterances * utterance_s:.0f} s {'fits' if is_fitting else 'does not fit'}"
        )
        return is_fitting

    return largest(fits, at_most)
