"""Domains are balanced exactly: by hours after the crop, over epochs, and for any number of ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.corpora.domains import (
    Domain,
    DomainDraws,
    DomainRule,
    balance_domains,
    domain_of,
    effective_number,
    label_hours,
)
from pipeline.data.loading.batches import TrainingBatches
from pipeline.data.loading.buckets import BatchConfig, plan_buckets
from pipeline.data.loading.epoch import EpochPlan
from pipeline.data.store.index import Index
from pipeline.storage import Folder

CONFIG = BatchConfig(max_seconds=40.0, num_buckets=4, window_shards=4)

NAMES = ("mls", "libritts", "mlaad/bark", "mlaad/xtts", "fleurs_r/restoration")
DOMAINS = tuple(
    Domain(name.partition("/")[0], "spoof" if "/" in name else "bonafide", name) for name in NAMES
)
NUM_ROWS = (4000, 300, 2000, 40, 500)


def make_index(num_rows: tuple[int, ...] = NUM_ROWS, seed: int = 0) -> Index:
    """Make an index in which the rows of the domains are mixed; some utterances are longer than the crop."""
    rng = np.random.default_rng(seed)
    domain = rng.permutation(np.repeat(np.arange(len(DOMAINS)), num_rows)).astype(np.int32)
    rows = np.arange(len(domain))
    labels = np.array([domain.label == "bonafide" for domain in DOMAINS], np.int8)
    return Index(
        shards=tuple(f"shards/{number:03d}.tar" for number in range(rows[-1] // 250 + 1)),
        corpora=("fleurs_r", "libritts", "mlaad", "mls"),
        domains=DOMAINS,
        shard=(rows // 250).astype(np.int32),
        offset=rows * 70_000,
        num_bytes=np.full(len(rows), 60_000, np.int32),
        seconds=(rng.integers(8_000, 320_000, len(rows)) / 16_000).astype(np.float32),
        label=labels[domain],
        domain=domain,
        uid=rng.integers(0, 2**64, len(rows), dtype=np.uint64),
    )


def drawn(
    index: Index, config: BatchConfig, rule: DomainRule, epochs: range
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count how often each row is in a batch of some epochs, and sum the hours of each domain."""
    num_draws, hours = np.zeros(len(index), np.int64), np.zeros(len(index.domains))
    buckets = plan_buckets(index, config, rule)
    for epoch in epochs:
        plan = EpochPlan(index, config, epoch, buckets)
        for number in range(plan.num_batches):
            batch = plan[number]
            np.add.at(num_draws, batch.rows, 1)
            np.add.at(hours, index.domain[batch.rows], batch.num_samples / 16_000 / 3600)
    return num_draws, hours


def hours_by_hand(index: Index, config: BatchConfig) -> NDArray[np.float64]:
    seconds = np.where(
        index.seconds > config.crop_max_s, (config.crop_min_s + config.crop_max_s) / 2, index.seconds
    )
    return np.array([seconds[index.domain == number].sum() / 3600 for number in range(len(DOMAINS))])


def test_each_domain_is_drawn_for_the_hours_of_the_rule_over_ten_epochs() -> None:
    index = make_index()
    all_hours = hours_by_hand(index, CONFIG)
    rule = DomainRule(cap_hours=1.0, bonafide_ratio=1.0, max_repeats=4)
    spoof = np.minimum(all_hours[2:], 1.0)
    # One cap of 1 h for both corpora of bona fide speech; libritts has less and both are scaled by the same number.
    bonafide = np.minimum(all_hours[:2], 1.0) * spoof.sum() / np.minimum(all_hours[:2], 1.0).sum()
    expected = np.concatenate([bonafide, spoof])
    draws = plan_buckets(index, CONFIG, rule).draws
    assert draws.hours == pytest.approx(all_hours, rel=1e-5)
    assert draws.drawn_hours == pytest.approx(expected, rel=1e-5)
    _, hours = drawn(index, CONFIG, rule, range(10))
    left_over = 10 * 40 / 3600  # at most a batch of 40 s per epoch
    assert hours == pytest.approx(10 * expected, rel=0.02, abs=left_over)
    assert hours.sum() == pytest.approx(10 * expected.sum(), rel=0.01, abs=left_over)


def test_the_draws_of_an_utterance_are_within_one_of_its_weight_over_any_epochs() -> None:
    index = make_index()
    rule = DomainRule(cap_hours=0.5, bonafide_ratio=2.0, max_repeats=3)
    weights = plan_buckets(index, CONFIG, rule).draws.weights[index.domain]
    for epochs in (range(1), range(3, 8)):
        num_draws, _ = drawn(index, CONFIG, rule, epochs)
        assert (num_draws < len(epochs) * weights + 1).all()
        is_missing = num_draws <= len(epochs) * weights - 1
        assert is_missing.sum() < 40 * len(epochs)  # only what fills no batch at the end of an epoch


def balanced(hours: list[float], rule: DomainRule, weights: list[float] | None = None) -> DomainDraws:
    base = np.ones(len(hours)) if weights is None else np.array(weights)
    return balance_domains(DOMAINS[: len(hours)], np.array(hours), base, rule)


def test_a_bounded_domain_is_replaced_by_the_other_bona_fide_domains() -> None:
    rule = DomainRule(cap_hours=5.0, bonafide_ratio=1.0, max_repeats=4)
    draws = balanced([100.0, 1.0, 5.0, 5.0, 50.0], rule)  # 15 h of spoof; libritts gives at most 4 h
    assert draws.weights.tolist() == pytest.approx([0.125, 2.5, 1.0, 1.0, 0.1])
    draws = balanced([100.0, 0.5, 10.0, 10.0, 50.0], DomainRule("attack", 10.0, 1.5, 4))
    # 45 h wanted. Without a bound, libritts would be drawn 45 / 10.5 times; it gives 2 h and mls the other 43 h.
    assert draws.weights.tolist() == pytest.approx([0.43, 4.0, 1.0, 1.0, 0.2])
    assert draws.missed_ratio is None
    assert label_hours(DOMAINS, draws.drawn_hours, "bonafide") == pytest.approx(45.0)


def test_weights_of_the_recipe_count_before_the_cap() -> None:
    draws = balanced([20.0, 4.0, 2.0, 8.0, 1.0], DomainRule(cap_hours=5.0), [0.5, 0.5, 2.0, 2.0, 2.0])
    assert draws.drawn_hours.tolist() == pytest.approx([5.0, 2.0, 4.0, 5.0, 2.0])
    assert balanced([1.0, 1.0, 1.0], DomainRule(max_repeats=2), [3.0, 1.0, 9.0]).weights.tolist() == [2, 1, 2]


def test_a_rule_without_limits_changes_nothing() -> None:
    assert balanced([9.0, 1.0, 5.0], DomainRule("language"), [1.0, 0.3, 7.0]).weights.tolist() == [1, 0.3, 7]


def test_a_ratio_that_cannot_be_reached_is_told() -> None:
    draws = balanced([1.0, 1.0, 10.0, 10.0], DomainRule(cap_hours=10.0, bonafide_ratio=1.0, max_repeats=4))
    assert draws.weights.tolist() == [4.0, 4.0, 1.0, 1.0]
    assert draws.missed_ratio == pytest.approx(0.4)
    assert draws.describe() == (
        "domains: 4; effective number 2.7 by hours, 3.6 as drawn; 8.0 h bona fide and 20.0 h spoof per epoch; "
        "bonafide_ratio 1 cannot be reached with max_repeats 4: it is 0.4"
    )


def test_the_scale_is_exact_for_random_domains() -> None:
    rng = np.random.default_rng(3)
    domains = tuple(Domain(f"c{n}", "bonafide" if n % 2 else "spoof", f"c{n}") for n in range(60))
    for _ in range(200):
        hours, weights = rng.lognormal(1, 2, 60), rng.lognormal(0, 1, 60) * rng.integers(0, 2, 60)
        rule = DomainRule(
            "attack", float(rng.lognormal(1, 1)), float(rng.lognormal(0, 1)), int(rng.integers(1, 9))
        )
        draws = balance_domains(domains, hours, weights, rule)
        most = rule.max_repeats or 0
        ratio = label_hours(domains, draws.drawn_hours, "bonafide") / label_hours(
            domains, draws.drawn_hours, "spoof"
        )
        assert draws.weights.max() <= most
        is_bonafide, is_used = np.arange(60) % 2 == 1, weights > 0
        if draws.missed_ratio is None:
            assert ratio == pytest.approx(rule.bonafide_ratio)
            is_free = is_bonafide & is_used & (draws.weights < most)
            capped = weights * np.minimum(1, (rule.cap_hours or 0) / np.maximum(weights * hours, 1e-300))
            scales = draws.weights[is_free] / capped[is_free]
            assert not len(scales) or scales.max() == pytest.approx(scales.min())
        else:
            assert draws.weights[is_bonafide & is_used].tolist() == [most] * int(
                (is_bonafide & is_used).sum()
            )


def test_the_effective_number_is_that_of_equal_domains() -> None:
    assert effective_number([3.0, 3.0, 3.0]) == pytest.approx(3)
    assert effective_number([3.0, 1.0, 0.0]) == pytest.approx(4 / 3**0.75)
    assert effective_number([]) == 0


def test_an_unknown_attack_falls_back_to_its_artifact() -> None:
    assert domain_of("attack", "mlaad", "spoof", "tts", "bark", "pl").name == "mlaad/bark"
    assert domain_of("attack", "fleurs_r", "spoof", "restoration", None, "pl").name == "fleurs_r/restoration"
    assert domain_of("attack", "mls", "bonafide", None, None, "pl").name == "mls"
    assert domain_of("corpus", "mlaad", "spoof", "tts", "bark", "pl").name == "mlaad/spoof"
    assert domain_of("language", "mlaad", "spoof", "tts", "bark", "pl").name == "mlaad:pl/spoof"
    assert domain_of("language", "mls", "bonafide", None, None, None).name == "mls"


def test_resuming_with_other_ranks_gives_the_same_draws() -> None:
    index, folder = make_index(), Folder("nowhere")
    rule = DomainRule(cap_hours=1.0, bonafide_ratio=1.0, max_repeats=4)

    def batches(rank: int, world: int, first_batch: int) -> list[list[str]]:
        part = TrainingBatches(folder, index, CONFIG, domains=rule, rank=rank, world=world)
        return [request.uid for request in part.requests(2, first_batch)]

    alone = batches(0, 1, 0)
    resumed = [batches(rank, 3, 8) for rank in range(3)]
    together = [uids for step in zip(*resumed, strict=True) for uids in step]
    assert together == alone[8 : 8 + len(together)]
    assert len(alone) - 8 - len(together) < 3


def test_a_batch_holds_both_classes_wherever_its_bucket_has_enough_of_both() -> None:
    num_rows = (1600, 1600, 400, 200, 200)  # 20 % spoof
    config = replace(CONFIG, max_seconds=104.0)  # batches of 8 or more
    for seed in range(3):
        index = make_index(num_rows, seed)
        plan = EpochPlan(index, config)
        shares, last = [], len(plan.buckets) - 1
        for number in range(plan.num_batches):
            batch = plan[number]
            assert len(batch.rows) >= 8
            shares.append(index.label[batch.rows].mean())
        # The last batch of a bucket may hold utterances that were left over from the shorter one.
        assert sum(share == 1 or share == 0 for share in shares) <= last
        assert np.std(shares) < 0.06  # of a random order, 0.13
