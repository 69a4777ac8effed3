from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.drift.selection import divide, drop_clusters, limit_sizes, match_sizes, partners_of, thin
from tests.drift.simulated import simulate


def test_thinning_keeps_the_share_of_each_group_and_depends_on_keys_alone():
    sample = simulate(0, 1000, share_of_spoof=0.3, attacks=("tts", "vocoder"))
    thinned = thin(sample, 200)
    assert len(thinned) == 200
    before, after = Counter(sample.groups), Counter(thinned.groups)
    assert all(abs(after[name] - number / 5) <= 1 for name, number in before.items())
    order = np.random.default_rng(0).permutation(len(sample))
    again = thin(sample.take(order), 200)
    assert set(again.rows["key"].to_pylist()) == set(thinned.rows["key"].to_pylist())


def test_a_small_sample_is_not_thinned():
    sample = simulate(0, 50)
    assert thin(sample, 50) is sample


def test_clusters_of_both_sides_become_alike_in_size():
    reference, new = simulate(0, 900, num_speakers=30), simulate(1, 120, num_speakers=40)
    clusters = [sample.clusters("auto") for sample in (reference, new)]
    masks = match_sizes(reference, clusters[0], new, clusters[1])
    sizes = [np.bincount(each.codes[mask]) for each, mask in zip(clusters, masks, strict=True)]
    assert [each.size for each in sizes] == [len(each.names) for each in clusters]
    assert abs(sizes[0].mean() - sizes[1].mean()) < 0.5
    assert masks[1].all()


def test_speakers_without_a_counterpart_are_left_out_if_the_others_are_on_both_sides():
    reference = simulate(0, 400, num_speakers=20, speaker_seed=1)
    codes = reference.clusters("auto").codes
    old = reference.take(codes < 14)
    new = simulate(1, 400, num_speakers=20, speaker_seed=1)
    masks = match_sizes(old, old.clusters("auto"), new, new.clusters("auto"))
    chosen = [side.take(mask) for side, mask in zip((old, new), masks, strict=True)]
    clusters = [side.clusters("auto") for side in chosen]
    sizes = [dict(zip(each.names.to_pylist(), np.bincount(each.codes), strict=True)) for each in clusters]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 14
    assert (partners_of(*clusters)[0] >= 0).all()


def test_few_common_speakers_are_no_partners():
    reference, new = (simulate(seed, 400, num_speakers=20, speaker_seed=1) for seed in (0, 1))
    codes = reference.clusters("auto").codes
    old = reference.take(codes < 9)
    assert (partners_of(old.clusters("auto"), new.clusters("auto"))[1] < 0).all()


def test_whole_speakers_are_left_out_until_few_are_left_and_then_utterances_of_all():
    many, few = simulate(0, 3000, num_speakers=1000), simulate(1, 3000, num_speakers=10)
    samples = [drop_clusters(sample, sample.clusters("auto"), 900) for sample in (many, few)]
    assert len(samples[0]) <= 900 and len(samples[1]) == 3000
    before, after = (np.bincount(sample.clusters("auto").codes) for sample in (many, samples[0]))
    assert after.mean() == pytest.approx(before.mean(), rel=0.1)
    limited = limit_sizes(samples, [sample.clusters("auto") for sample in samples], 900)
    assert np.bincount(limited[1].clusters("auto").codes).tolist() == [90] * 10
    assert len(limited[0]) == len(samples[0])


def test_speakers_that_define_the_space_are_not_compared():
    sample = simulate(0, 600, num_speakers=30)
    clusters = sample.clusters("auto")
    for_space, is_compared = divide(sample, clusters, 1 / 3)
    assert len(np.unique(clusters.codes[for_space])) == 10
    assert not set(clusters.codes[for_space]) & set(clusters.codes[is_compared])


def test_an_attack_of_one_speaker_is_divided_by_utterance():
    many, one = (
        simulate(0, 300, num_speakers=30, share_of_spoof=0),
        simulate(1, 90, num_speakers=1, share_of_spoof=1),
    )
    rows = pa.concat_tables([many.rows, one.rows]).combine_chunks()
    vectors = [each.vectors for each in (many, one) if each.vectors is not None]
    sample = replace(many, rows=rows, vectors=np.vstack(vectors))
    for_space, is_compared = divide(sample, sample.clusters("auto"), 1 / 3)
    is_spoof = sample.texts("label") == "spoof"
    assert for_space[is_spoof].sum() == 30
    speakers = sample.texts("speaker")
    assert len(set(speakers[for_space & ~is_spoof])) == 10
    assert not set(speakers[for_space & ~is_spoof]) & set(speakers[is_compared & ~is_spoof])
    assert is_compared[is_spoof].sum() == 60 and 170 <= is_compared[~is_spoof].sum() <= 200


def test_utterances_that_are_all_of_other_groups_are_divided():
    sample = simulate(0, 60, share_of_spoof=1, attacks=[f"A{number}" for number in range(1000)])
    for_space, is_compared = divide(sample, sample.clusters("auto"), 1 / 3)
    assert (for_space.sum(), is_compared.sum()) == (20, 40)


def test_speakers_of_two_corpora_are_different_and_utterances_without_one_are_files():
    one = simulate(0, 100, num_speakers=3)
    other = simulate(1, 100)
    assert one.clusters("auto").kinds == {"speaker": 3}
    assert one.clusters("utterance").kinds == {"utterance": 100}
    assert other.clusters("auto").kinds == {"utterance": 100}
    assert other.clusters("speaker").kinds == {"utterance": 100}
