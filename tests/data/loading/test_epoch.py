"""The plan of an epoch is exact, pure, and the same for any number of ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.corpora.domains import Domain
from pipeline.data.corpora.utterance import LABELS
from pipeline.data.loading.buckets import BatchConfig, draw_log_odds, plan_buckets
from pipeline.data.loading.epoch import EpochPlan
from pipeline.data.store.index import COLUMNS, Index
from pipeline.errors import InputError

SMALL = BatchConfig(max_seconds=30.0, num_buckets=6, window_shards=3)


def make_index(seconds: NDArray[np.floating], rows_per_shard: int = 100, num_corpora: int = 1) -> Index:
    """Make an index of utterances of given lengths; corpora alternate by shard, labels are random."""
    rng = np.random.default_rng(7)
    rows = np.arange(len(seconds))
    shard = rows // rows_per_shard
    corpora = tuple(f"corpus{number}" for number in range(num_corpora))
    label = rng.integers(0, 2, len(rows)).astype(np.int8)
    return Index(
        shards=tuple(f"shards/{number:03d}.tar" for number in range(shard[-1] + 1)),
        corpora=corpora,
        domains=tuple(Domain(corpus, label, f"{corpus}/{label}") for corpus in corpora for label in LABELS),
        shard=shard.astype(np.int32),
        offset=rows * 70_000,
        num_bytes=np.full(len(rows), 60_000, np.int32),
        seconds=(np.rint(seconds * 16_000) / 16_000).astype(np.float32),
        label=label,
        domain=(shard % num_corpora * 2 + label).astype(np.int32),
        uid=rng.integers(0, 2**64, len(rows), dtype=np.uint64),
    )


def corpus_of(index: Index) -> NDArray[np.int64]:
    """[N] The number of each row's corpus."""
    numbers = [index.corpora.index(domain.corpus) for domain in index.domains]
    return np.array(numbers)[index.domain]


def speech_seconds(num: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw durations as in the corpora: log-normal, median 3.3 s, some above 13 s."""
    return np.maximum(0.3, np.random.default_rng(seed).lognormal(1.2, 0.6, num))


def rows_of(plan: EpochPlan) -> list[tuple[int, ...]]:
    return [tuple(plan[number].rows.tolist()) for number in range(plan.num_batches)]


def test_every_utterance_is_drawn_once_or_reported_as_left_over() -> None:
    index = make_index(speech_seconds(1200))
    for world in (1, 2, 7):
        plan = EpochPlan(index, SMALL)
        summary = plan.summary(world)
        drawn = np.concatenate(rows_of(plan)[: summary.num_steps * world])
        assert len(np.unique(drawn)) == len(drawn) == summary.used
        assert (
            summary.available
            == summary.used + summary.leftover + summary.too_short + summary.too_long
            == 1200
        )
        largest = int(plan.buckets.batch_size.max())
        assert summary.leftover < plan.buckets.batch_size[-1] + (world - 1) * largest


def test_few_utterances_are_left_over_from_a_small_corpus() -> None:
    summary = EpochPlan(make_index(speech_seconds(300), 300), BatchConfig(max_seconds=30)).summary(world=2)
    assert summary.leftover <= 15
    assert summary.padding < 0.1


def test_utterances_too_short_or_too_long_for_a_batch_are_counted() -> None:
    seconds = np.concatenate([speech_seconds(200), [0.02, 0.024], np.full(3, 31.0)])
    assert EpochPlan(make_index(seconds), SMALL).summary().too_short == 2
    assert EpochPlan(make_index(seconds), SMALL).summary().too_long == 0  # cropped to 13 s
    whole = EpochPlan(make_index(np.minimum(seconds, 31)), replace(SMALL, crop_max_s=float("inf")))
    assert whole.summary().too_long == 3 + int((seconds[:200] > 30).sum())


def test_every_rank_takes_the_same_number_of_steps() -> None:
    plan = EpochPlan(make_index(speech_seconds(900)), SMALL)
    for world in (1, 2, 3, 5, 8):
        shares = [plan.batch_numbers(rank, world) for rank in range(world)]
        assert {len(share) for share in shares} == {plan.num_steps(world)}
        together = sorted(number for share in shares for number in share)
        assert together == list(range(plan.num_batches // world * world))


def test_a_batch_can_be_planned_without_those_before_it() -> None:
    index = make_index(speech_seconds(2000))
    plan = EpochPlan(index, SMALL, epoch=3)
    batches = [plan[number] for number in range(plan.num_batches)]
    for number in (plan.num_batches - 1, 0, plan.num_batches // 2, 17):
        fresh = EpochPlan(index, SMALL, epoch=3)[number]
        for name in ("rows", "num_samples", "crop_start", "augment_seed"):
            assert np.array_equal(getattr(fresh, name), getattr(batches[number], name))
        assert fresh.padded_samples == batches[number].padded_samples


def test_the_order_depends_only_on_index_settings_epoch_and_seed() -> None:
    index = make_index(speech_seconds(600))
    before = {name: getattr(index, name).copy() for name in COLUMNS}
    plain = rows_of(EpochPlan(index, SMALL))
    assert plain == rows_of(EpochPlan(index, SMALL))
    assert plain == rows_of(EpochPlan(index, SMALL, buckets=plan_buckets(index, SMALL)))
    assert plain != rows_of(EpochPlan(index, SMALL, epoch=1))
    assert plain != rows_of(EpochPlan(index, replace(SMALL, seed=2)))
    for name, column in before.items():
        assert np.array_equal(column, getattr(index, name))


FIRST_BATCH = [0, 7, 4, 5]
FIRST_LENGTHS = [16_000, 70_564, 47_179, 54_974]
LAST_BATCH = [30, 21]
LAST_LENGTHS = [167_378, 179_692]  # both cropped


def test_the_draws_are_the_same_on_every_machine_and_in_every_release() -> None:
    """Old checkpoints must resume in the same order."""
    index = replace(make_index(np.linspace(1, 20, 40), 10), uid=np.arange(40, dtype=np.uint64))
    plan = EpochPlan(index, BatchConfig(max_seconds=30, num_buckets=2))
    assert plan[0].rows.tolist() == FIRST_BATCH
    assert plan[0].num_samples.tolist() == FIRST_LENGTHS
    assert plan[plan.num_batches - 1].rows.tolist() == LAST_BATCH
    assert plan[plan.num_batches - 1].num_samples.tolist() == LAST_LENGTHS


def test_batches_have_the_shape_of_their_bucket() -> None:
    plan = EpochPlan(make_index(speech_seconds(1500)), SMALL)
    shapes = {(len(plan[number].rows), plan[number].padded_samples) for number in range(plan.num_batches)}
    assert shapes == set(
        zip(plan.buckets.batch_size.tolist(), plan.buckets.padded_samples.tolist(), strict=True)
    )
    assert all(size * length <= 30 * 16_000 and length % 320 == 0 for size, length in shapes)
    for number in range(plan.num_batches):
        assert plan[number].num_samples.max() <= plan[number].padded_samples


def test_padding_stays_below_six_percent_on_speech() -> None:
    summary = EpochPlan(make_index(speech_seconds(50_000), 4000), BatchConfig()).summary(world=8)
    assert 0 < summary.padding < 0.06
    assert summary.leftover < 0.02 * summary.available


def test_the_summary_counts_audio_and_padding_exactly() -> None:
    plan = EpochPlan(make_index(speech_seconds(700)), SMALL)
    summary = plan.summary(world=4)
    batches = [plan[number] for number in range(summary.num_steps * 4)]
    audio = sum(int(batch.num_samples.sum()) for batch in batches)
    padded = sum(len(batch.rows) * batch.padded_samples for batch in batches)
    assert summary.audio_s == pytest.approx(audio / 16_000, abs=1e-6)
    assert summary.padding == pytest.approx(1 - audio / padded, abs=1e-12)


def test_long_utterances_are_cropped_differently_in_every_epoch() -> None:
    index = make_index(np.full(300, 40.0))
    lengths: list[NDArray[np.int64]] = []
    for epoch in range(2):
        plan = EpochPlan(index, SMALL, epoch)
        cropped = np.zeros(300, np.int64)
        for number in range(plan.num_batches):
            cropped[plan[number].rows] = plan[number].num_samples
        lengths.append(cropped)
    used = (lengths[0] > 0) & (lengths[1] > 0)
    assert lengths[0][used].min() >= 160_000
    assert lengths[0][used].max() <= 208_000
    assert np.ptp(lengths[0][used]) > 40_000
    assert np.mean(lengths[0][used] != lengths[1][used]) > 0.9


def test_resuming_with_another_number_of_ranks_covers_exactly_the_rest() -> None:
    plan = EpochPlan(make_index(speech_seconds(2000)), SMALL)
    done: list[int] = []
    for world in (4, 3, 2, 7):  # five steps each
        shares = [plan.batch_numbers(rank, world, first_batch=len(done))[:5] for rank in range(world)]
        done += [number for step in zip(*shares, strict=True) for number in step]
    rest = [plan.batch_numbers(rank, 4, first_batch=len(done)) for rank in range(4)]
    assert {len(share) for share in rest} == {plan.num_steps(4, first_batch=len(done))}
    done += sorted(number for share in rest for number in share)
    assert done == list(range(len(done)))
    assert plan.num_batches - len(done) < 4


@pytest.mark.parametrize("seed", range(8))
def test_every_draw_of_an_epoch_is_used_once_despite_interruptions(seed: int) -> None:
    """For random data, weights and buckets, interrupted at random steps and resumed by random numbers of ranks."""
    rng = np.random.default_rng(seed)
    index = make_index(speech_seconds(int(rng.integers(50, 900)), seed), int(rng.integers(5, 300)), 2)
    config = replace(
        SMALL,
        num_buckets=int(rng.integers(1, 9)),
        window_shards=int(rng.integers(1, 9)),
        weights={"corpus0": float(rng.choice([0.3, 1.0, 2.5])), "spoof": float(rng.choice([0.5, 1.0, 3.0]))},
        seed=seed,
    )
    epoch, done, world = int(rng.integers(6)), 0, 1
    seen: list[int] = []
    while True:
        plan = EpochPlan(index, config, epoch)
        world = int(rng.integers(1, 6))
        num_steps = min(plan.num_steps(world, done), int(rng.integers(1, 30)))
        if not num_steps:
            break
        for rank in range(world):
            for number in plan.batch_numbers(rank, world, done)[:num_steps]:
                seen += plan[number].augment_seed.tolist()  # unique for each repeat of an utterance
        done += num_steps * world
    left = [draw for number in range(done, plan.num_batches) for draw in plan[number].augment_seed.tolist()]
    summary = plan.summary()
    assert plan.num_batches - done < world  # the epoch ends with fewer batches than ranks
    assert len(set(seen) | set(left)) == len(seen) + len(left) == summary.used
    assert summary.available - summary.used - summary.too_short - summary.too_long == summary.leftover


def draws_per_row(plan: EpochPlan) -> NDArray[np.int64]:
    """Count how often each row is in a batch."""
    return np.bincount(np.concatenate(rows_of(plan)), minlength=len(plan.index))


def test_an_integer_weight_is_the_number_of_draws_per_epoch() -> None:
    index = make_index(np.full(600, 3.0), num_corpora=2)  # 10 per batch
    config = replace(SMALL, weights={"corpus1": 2.0, "spoof": 3.0})
    drawn = draws_per_row(EpochPlan(index, config))
    expected = np.where(corpus_of(index) == 1, 2, 1) * np.where(index.label == 0, 3, 1)
    missing = expected - drawn
    assert missing.min() >= 0
    assert missing.sum() == EpochPlan(index, config).summary().leftover < 10


def test_the_log_odds_are_those_of_the_labels_in_the_means_over_batches() -> None:
    index = make_index(np.full(3000, 3.0), num_corpora=2)
    # Bona fide utterances are longer, so fewer of them fill a batch.
    seconds = np.where(index.label == 1, 6.0, 2.0).astype(np.float32)
    seconds[::7], seconds[5::11] = 0.01, 40.0  # some are too short
    index = replace(index, seconds=seconds)
    config = replace(SMALL, weights={"corpus1": 2.0, "spoof": 0.25, "corpus0/bonafide": 3.0})
    for crop_max_s in (13.0, float("inf")):  # without cropping, 40 s are too long for a batch
        config = replace(config, crop_max_s=crop_max_s)
        plans = [EpochPlan(index, config, epoch) for epoch in range(4)]
        means = [
            index.label[plan[number].rows].mean() for plan in plans for number in range(plan.num_batches)
        ]
        share = np.mean(means)
        log_odds = draw_log_odds(index, config, plan_buckets(index, config))
        assert log_odds == pytest.approx(np.log(share / (1 - share)), abs=0.03)
    with pytest.raises(InputError, match="no spoof utterance has a length that can be trained on"):
        is_bonafide = np.array([domain.label == "bonafide" for domain in index.domains])
        only_bonafide = replace(
            index,
            label=np.ones(len(index), np.int8),
            domain=np.full(len(index), np.argmax(is_bonafide), np.int32),
        )
        draw_log_odds(only_bonafide, config, plan_buckets(only_bonafide, config))


def test_repeats_of_an_utterance_are_cropped_and_augmented_differently() -> None:
    plan = EpochPlan(make_index(np.full(60, 30.0)), replace(SMALL, weights={"corpus0": 2.0}))
    crops: dict[int, list[Any]] = {}
    for number in range(plan.num_batches):
        batch = plan[number]
        for row, crop in zip(
            batch.rows.tolist(),
            zip(batch.num_samples, batch.crop_start, batch.augment_seed, strict=True),
            strict=True,
        ):
            crops.setdefault(row, []).append(crop)
    repeated = [pair for pair in crops.values() if len(pair) == 2]
    assert len(repeated) > 50
    assert all(first[1] != second[1] and first[2] != second[2] for first, second in repeated)


def test_a_weight_of_a_quarter_covers_the_corpus_in_four_epochs() -> None:
    index = make_index(np.full(800, 3.0), num_corpora=2)
    config = replace(SMALL, weights={"corpus0": 0.25, "corpus1/bonafide": 0.0})
    epochs = [draws_per_row(EpochPlan(index, config, epoch)) for epoch in range(4)]
    sampled = corpus_of(index) == 0
    for drawn in epochs:
        assert 60 < drawn[sampled].sum() < 140
        assert drawn[(corpus_of(index) == 1) & (index.label == 1)].sum() == 0
    total = np.sum(epochs, axis=0)[sampled]
    assert total.max() == 1
    assert total.sum() > 0.9 * sampled.sum()  # the rest was left over


def test_a_weight_that_matches_nothing_or_leaves_nothing_is_an_error() -> None:
    index = make_index(speech_seconds(10))
    for name in ("corpus9", "fake", "corpus0/fake"):
        with pytest.raises(InputError, match=name):
            EpochPlan(index, replace(SMALL, weights={name: 2.0}))
    with pytest.raises(InputError, match="no utterance"):
        EpochPlan(index, replace(SMALL, weights={"corpus0": 0.0}))


def test_invalid_settings_are_errors() -> None:
    for change in ({"max_seconds": 5.0}, {"crop_min_s": 14.0}, {"num_buckets": 0}, {"weights": {"a": -1.0}}):
        with pytest.raises(InputError):
            replace(SMALL, **change)
