"""The estimate of memory equals what a fresh process uses, and limits are read from the machine."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.detector.memory import GIB, Inference
from pipeline.detector.memory_limit import free_host_bytes
from pipeline.detector.network import Detector, DetectorConfig
from pipeline.detector.scoring import Precision, Scorer
from pipeline.detector.variants import VARIANTS, HeadConfig
from tests.detector.fresh_process import (
    RETURNS_FREED_BLOCKS,
    forget_peak,
    needs_peaks,
    peak_bytes,
    printed_by,
    resident_bytes,
)

MHFA = HeadConfig("mhfa")
SHALLOW = {
    "layer": replace(VARIANTS["xlsr_300m"], num_layers=1, ffn_width=1024),
    "group": replace(VARIANTS["w2v_small"], num_layers=1, ffn_width=768),
}
"""Convolutions, frames and heads as published, with one layer: layers run one after the other."""

BATCHES: list[tuple[str, HeadConfig, Precision, list[float]]] = [
    ("layer", HeadConfig(), "fp32", [9.0]),
    ("layer", HeadConfig(), "fp32", [9.0, 8.0]),
    ("layer", HeadConfig(), "bf16", [15.0]),
    ("group", HeadConfig(), "fp32", [9.0]),
    ("group", HeadConfig(), "fp32", [9.0, 8.0]),
    ("group", HeadConfig(), "bf16", [9.0, 8.0]),
    ("layer", MHFA, "fp32", [9.0, 8.0]),
]
"""Front end, head, precision, and the lengths of a batch in seconds."""


def print_peaks() -> None:
    """Print the memory that scoring each batch adds to this process."""
    import numpy as np

    torch.set_num_threads(1)
    for front_end, head, precision, lengths_s in BATCHES:
        detector = Detector(DetectorConfig(SHALLOW[front_end], head))
        scorer = Scorer(detector, precision=precision, max_seconds=1e6)
        scorer.score([np.ones(16_000, np.float32)])  # libraries allocate in the first pass
        waveforms = [np.sin(np.arange(int(length * 16_000), dtype=np.float32)) for length in lengths_s]
        forget_peak()
        before = resident_bytes()
        scorer.score(waveforms)
        print(peak_bytes() - before)


@needs_peaks
def test_a_process_uses_as_much_memory_as_estimated() -> None:
    # A block that glibc keeps for the next pass is resident before it, and would be missing from the difference.
    measured = printed_by(print_peaks, RETURNS_FREED_BLOCKS)
    estimated = [
        Inference(SHALLOW[front_end], precision, head=head)
        .forward_memory(len(lengths_s), int(lengths_s[0] * 16_000), is_padded=len(lengths_s) > 1)
        .peak
        for front_end, head, precision, lengths_s in BATCHES
    ]
    assert measured == pytest.approx(estimated, rel=0.08)


def test_a_head_over_all_layers_needs_two_sums_of_frames_whatever_their_number() -> None:
    for layers in (2, 48):
        plain = Inference(replace(VARIANTS["xlsr_1b"], num_layers=layers), "bf16")
        one, other = (
            each.forward_memory(3, 160_000, is_padded=True) for each in (plain, replace(plain, head=MHFA))
        )
        assert other.attention - one.attention == other.feed_forward - one.feed_forward
        assert other.attention - one.attention == 3 * 2 * 499 * 1280 * 4
        assert other.peak == one.peak, "the convolutions decide"


def test_attention_without_a_fused_kernel_is_quadratic() -> None:
    fused = Inference(VARIANTS["xlsr_300m"])
    explicit = replace(fused, has_fused_attention=False)
    minute, ten_minutes = 60 * 16_000, 600 * 16_000
    assert fused.utterance_bytes(ten_minutes) == pytest.approx(10 * fused.utterance_bytes(minute), rel=0.01)
    assert (
        explicit.utterance_bytes(ten_minutes)
        > 90 * explicit.forward_memory(1, minute, is_padded=False).attention
    )
    assert explicit.utterance_bytes(ten_minutes) > 100 * GIB


def test_attention_on_a_cpu_is_fused_with_and_without_a_mask() -> None:
    query = torch.randn(2, 4, 64, 16)
    for mask in (None, torch.ones(2, 1, 1, 64, dtype=torch.bool)):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises if that kernel cannot run
            torch.nn.functional.scaled_dot_product_attention(query, query, query, mask)


@pytest.mark.parametrize("name", ["tiny", "w2v_small", "xlsr_300m", "xlsr_2b"])
def test_the_longest_utterance_fits_and_a_longer_one_does_not(name: str) -> None:
    inference = Inference(VARIANTS[name])
    seconds = inference.longest_seconds(GIB)
    assert inference.utterance_bytes(int(seconds * 16_000)) <= GIB
    assert inference.utterance_bytes(int((seconds + 0.2) * 16_000)) > GIB
    # 6.25 MiB a second for the output of the first convolution alone.
    assert name == "tiny" or seconds < 1024 / 6.25


def test_as_many_utterances_form_a_batch_as_fit() -> None:
    inference = Inference(VARIANTS["w2v_small"])
    size = inference.max_utterances(160_000, GIB)
    assert size > 1
    assert inference.forward_memory(size, 160_000, is_padded=True).peak <= GIB
    assert inference.forward_memory(size + 1, 160_000, is_padded=True).peak > GIB
    assert inference.max_utterances(10**8, GIB) == 1


def machine(folder: Path, groups: str, *, available_kib: int = 2**23) -> Path:
    """A folder like /proc."""
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        f"MemTotal:       {2**24} kB\nMemFree:        1 kB\nMemAvailable:   {available_kib} kB\n"
    )
    (folder / "self/statm").write_text("1000 100 10 1 0 10 0\n")
    (folder / "self/cgroup").write_text(groups)
    return folder


def group(folder: Path, limit: str, usage: int, cache: int, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def test_free_memory_is_that_of_the_machine_below_the_level_at_which_ray_kills(tmp_path: Path) -> None:
    proc = machine(tmp_path / "proc", "")
    assert free_host_bytes(proc, tmp_path / "cgroup") == pytest.approx((2**23 - 0.05 * 2**24) * 1024)
    assert free_host_bytes(machine(tmp_path / "full", "", available_kib=5), tmp_path / "cgroup") == 0


def test_the_limit_of_any_enclosing_control_group_counts(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    proc = machine(tmp_path / "proc", "0::/batch/job\n")
    group(cgroups / "batch/job", "max", 1 * GIB, 0, V2)
    group(cgroups / "batch", str(4 * GIB), 3 * GIB, GIB // 2, V2)
    assert free_host_bytes(proc, cgroups) == 1.5 * GIB


def test_control_groups_of_version_1_count_also_where_a_container_sees_only_its_own(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    proc = machine(tmp_path / "proc", "8:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n")
    group(cgroups / "memory", str(2 * GIB), GIB, 0, V1)
    assert free_host_bytes(proc, cgroups) == GIB
    group(cgroups / "memory", "9223372036854771712", GIB, 0, V1)
    assert free_host_bytes(proc, cgroups) > 6 * GIB


def test_a_limit_of_the_address_space_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * GIB, resource.RLIM_INFINITY))
    proc = machine(tmp_path / "proc", "")
    assert free_host_bytes(proc, tmp_path / "cgroup") == 2 * GIB - 1000 * resource.getpagesize()
