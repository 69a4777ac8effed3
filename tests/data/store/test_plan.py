"""Plans are pure and append-only: a change in one utterance renames one shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.catalog import CatalogRow
from pipeline.data.store.plan import missing_shards, plan_shards

KIB = 1024


def row(number: int, **changes: Any) -> CatalogRow:
    path = f"wav/{number:04d}.wav"
    columns: Any = dict.fromkeys(catalogs.CATALOG.names)
    columns |= {
        "uid": utterance_uid("toy", path),
        "id": f"Toy-{number}",
        "corpus": "toy",
        "path": path,
        "label": "spoof" if number % 2 else "bonafide",
        "fingerprint": f"{number:016x}",
        "seconds": 2.0,
    }
    return columns | changes


def rows(numbers: range) -> list[CatalogRow]:
    return [row(number) for number in numbers]


def plan(rows: list[CatalogRow], previous: pa.Table | None = None, kib: int = 400):
    return plan_shards(catalogs.table(rows), previous, build_settings="r", target_bytes=kib * KIB)


def members(planned: pa.Table) -> dict[str, list[str]]:
    shards: dict[str, list[str]] = {}
    for uid, shard in zip(planned["uid"].to_pylist(), planned["shard"].to_pylist(), strict=True):
        if shard is not None:
            shards.setdefault(shard, []).append(uid)
    return shards


def test_a_plan_does_not_depend_on_the_order_of_the_rows():
    ordered = rows(range(200))
    shuffled = [ordered[position] for position in np.random.default_rng(0).permutation(200)]
    first, second = plan(ordered), plan(shuffled)
    assert first[1] == second[1]
    assert first[0].equals(second[0])
    assert len(first[1]) > 5


def test_every_utterance_has_one_shard_and_a_shard_is_a_run_of_rows():
    planned, plans = plan(rows(range(100)))
    assert sorted(uid for uids in members(planned).values() for uid in uids) == sorted(
        planned["uid"].to_pylist()
    )
    for shard in plans:
        assert set(planned["shard"].slice(shard.first_row, shard.num_rows).to_pylist()) == {shard.name}
    assert sum(shard.num_rows for shard in plans) == 100
    assert sum(shard.seconds for shard in plans) == 200.0


def test_shards_exceed_the_target_by_at_most_one_file():
    _, plans = plan(rows(range(300)), kib=400)
    assert all(shard.num_rows * (2.0 * 18_000 + 2560) <= 400 * KIB + 2.0 * 18_000 + 2560 for shard in plans)


def test_new_files_only_add_shards():
    before, plans = plan(rows(range(100)))
    after, more = plan(rows(range(150)), previous=before)
    assert {shard.name for shard in plans} < {shard.name for shard in more}
    assert {uid for shard in plans for uid in members(after)[shard.name]} == set(before["uid"].to_pylist())


def test_a_changed_label_renames_only_its_shard():
    before, plans = plan(rows(range(100)))
    changed = rows(range(100))
    changed[17]["label"] = "bonafide"
    _, after = plan(changed, previous=before)
    assert len({shard.name for shard in after} - {shard.name for shard in plans}) == 1
    assert len(after) == len(plans)


def test_a_deleted_file_renames_only_its_shard():
    before, plans = plan(rows(range(100)))
    _, after = plan(rows(range(99)), previous=before)
    assert len({shard.name for shard in after} - {shard.name for shard in plans}) == 1


def test_other_build_settings_rename_every_shard():
    catalog = catalogs.table(rows(range(50)))
    _, one = plan_shards(catalog, None, build_settings="soxr", target_bytes=KIB * 400)
    _, two = plan_shards(catalog, None, build_settings="torchaudio", target_bytes=KIB * 400)
    assert not {shard.name for shard in one} & {shard.name for shard in two}


def test_rows_with_problems_stay_in_the_catalog_without_a_shard():
    problems = [row(20, problem="truncated"), row(21, problem="stray", uid=None)]
    planned, plans = plan([*rows(range(20)), *problems])
    assert len(planned) == 22
    assert sum(shard.num_rows for shard in plans) == 20
    assert pc.sum(pc.is_null(planned["shard"])).as_py() == 2


def test_segments_of_a_file_stay_in_order_in_one_shard():
    segments = [
        row(
            file,
            uid=utterance_uid("toy", f"wav/{file:04d}.wav", start, start + 9),
            start=start,
            end=start + 9,
            seconds=20.0,
        )
        for file in range(10)
        for start in (18, 0, 9)
    ]
    planned, plans = plan(segments, kib=500)
    assert len(plans) > 3
    shards_of: dict[str, list[tuple[str, int]]] = {}
    for path, shard, start in zip(
        *(planned[name].to_pylist() for name in ("path", "shard", "start")), strict=True
    ):
        shards_of.setdefault(path, []).append((shard, start))
    for parts in shards_of.values():
        assert len({shard for shard, _ in parts}) == 1
        assert [start for _, start in parts] == [0, 9, 18]


def test_an_empty_catalog_has_no_shards():
    planned, plans = plan([])
    assert len(planned) == 0
    assert plans == []


def test_finished_shards_are_not_missing():
    _, plans = plan(rows(range(60)))
    assert missing_shards(plans, {plans[0].name}) == plans[1:]
