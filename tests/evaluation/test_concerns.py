"""Scores whose error rates mean nothing are named."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation.simulated import results_of, write_system


def rewrite_scores(folder, change):
    for path in (folder / "scores").glob("*.parquet"):
        table = pq.read_table(path)
        scores = change(table["score"].to_numpy()).astype(np.float32)
        pq.write_table(table.set_column(table.column_names.index("score"), "score", [scores]), path)
    return folder


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (
            np.zeros_like,
            ["all scores are equal, so they tell nothing", "50.00 % (bonafide), 100.00 % (asvspoof)"],
        ),
        (np.round, ["scores differ, so they were rounded or saturated", "The EER depends on its definition"]),
        (np.negative, ["is worse than guessing. Are the labels swapped?"]),
        (np.copy, []),
    ],
)
def test_odd_scores_are_named_with_the_eer_of_every_definition(tmp_path, change, sentences):
    folder = rewrite_scores(write_system(tmp_path / "a", corpora=["alpha"]), change)
    warnings = results_of(folder).warnings
    assert len(warnings) == min(len(sentences), 1)
    for sentence in sentences:
        assert sentence in warnings[0]


def test_a_class_of_few_speakers_is_named(tmp_path):
    folder = write_system(tmp_path / "a", corpora=["alpha"], num_utterances=16, without=["path"])
    for path in (folder / "scores").glob("*.parquet"):
        table = pq.read_table(path)
        speakers = [f"s{row % 4}" for row in range(len(table))]
        pq.write_table(table.set_column(table.column_names.index("speaker"), "speaker", [speakers]), path)
    (warning,) = results_of(folder).warnings
    assert "one class has only 2 speakers, so the intervals are rough" in warning
