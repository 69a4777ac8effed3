"""Plans are append-only: a change in one utterance renames one shard, and all rows need not be in memory."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import spill
from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import plan as planning
from pipeline.data.store.catalog import CATALOG, CatalogRow
from pipeline.data.store.plan import IDENTITY, ShardPlan, missing_shards, plan_shards

KIB = 1024

Planned = tuple[pa.Table, list[ShardPlan]]


def row(number: int, **changes: Any) -> CatalogRow:
    path = f"wav/{number:04d}.wav"
    columns: Any = dict.fromkeys(CATALOG.names)
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


def segment(number: int, start: int, **changes: Any) -> CatalogRow:
    end = start + 9
    uid = utterance_uid("toy", f"wav/{number:04d}.wav", start, end)
    return row(number, uid=uid, id=f"Toy-{number}-{start}", start=start, end=end, **changes)


def rows(numbers: range) -> list[CatalogRow]:
    return [row(number) for number in numbers]


def plan(
    rows: Sequence[CatalogRow], previous: Planned | None = None, kib: int = 400, part_rows: int = 30
) -> Planned:
    """The planned catalog as one table, and its shards.

    Args:
        rows: rows of the corpus; their files keep the shards that they have in the previous plan.
        previous: an earlier result.
        kib: size of a shard.
        part_rows: rows that are passed at a time.
    """
    shard_of: dict[str, str] = {}
    if previous is not None:
        known = previous[0].filter(pc.is_valid(previous[0]["shard"]))
        shard_of = dict(zip(known["path"].to_pylist(), known["shard"].to_pylist(), strict=True))
    filled: Any = [{**each, "shard": shard_of.get(each["path"])} for each in rows]
    parts = [catalogs.table(filled[first : first + part_rows]) for first in range(0, len(filled), part_rows)]
    names = [shard.name for shard in previous[1]] if previous is not None else []
    groups = list(plan_shards(iter(parts), names, build_settings="r", target_bytes=kib * KIB))
    for shard, members in groups:
        assert set(members["shard"].to_pylist()) == {shard.name if shard else None}
        assert shard is None or shard.num_rows == len(members)
        assert len(members)
    table = pa.concat_tables([CATALOG.empty_table(), *(members for _, members in groups)])
    return table, [shard for shard, _ in groups if shard is not None]


def members(planned: pa.Table) -> dict[str, list[str]]:
    shards: dict[str, list[str]] = {}
    for uid, shard in zip(planned["uid"].to_pylist(), planned["shard"].to_pylist(), strict=True):
        if shard is not None:
            shards.setdefault(shard, []).append(uid)
    return shards


def plan_plainly(
    rows: Sequence[CatalogRow], previous: list[tuple[str, list[CatalogRow]]], kib: int
) -> list[tuple[str, list[CatalogRow]]]:
    """The definition of a plan, with everything in memory: name and members of each shard; "" for the problems."""
    order = {each["path"]: int(utterance_uid("toy", each["path"]), 16) for each in rows}
    ordered = sorted(rows, key=lambda each: (order[each["path"]], each["start"] or 0))
    problems = [each for each in ordered if each["problem"]]
    good = [each for each in ordered if not each["problem"]]
    number_of = {member["path"]: number for number, (_, members) in enumerate(previous) for member in members}
    groups: dict[int, list[CatalogRow]] = {}
    for each in good:
        if each["path"] in number_of:
            groups.setdefault(number_of[each["path"]], []).append(each)
    cost = 0.0
    new = [each for each in good if each["path"] not in number_of]
    for _, segments in itertools.groupby(new, key=lambda each: each["path"]):
        file = list(segments)
        costs = [
            (each["seconds"] or 0.0) * planning.FLAC_BYTES_PER_S + planning.MEMBER_BYTES for each in file
        ]
        number = len(previous) + int((cost + costs[0]) // (kib * KIB))
        groups.setdefault(number, []).extend(file)
        for each_cost in costs:
            cost += each_cost
    shards = [(name_plainly(group), group) for _, group in sorted(groups.items())]
    return [*shards, *([("", problems)] if problems else [])]


def name_plainly(group: Sequence[CatalogRow]) -> str:
    digest = hashlib.sha256(b"r")
    for name in IDENTITY:
        values: list[Any] = [each[name] for each in group]  # type: ignore[literal-required]
        if name in ("start", "end"):
            digest.update(np.array([-1 if value is None else value for value in values], np.int64).tobytes())
            continue
        texts = [b"" if value is None else value.encode() for value in values]
        lengths = [-1 if value is None else len(value.encode()) for value in values]
        digest.update(np.array(lengths, np.int32).tobytes())
        digest.update(b"".join(texts))
    return f"toy-{digest.hexdigest()[:16]}"


def random_rows(rng: np.random.Generator, num_files: int) -> list[CatalogRow]:
    """Whole files, files with segments, and problems of both."""
    catalog: list[CatalogRow] = []
    for number in range(num_files):
        seconds = float(rng.uniform(0.5, 8.0))
        if rng.random() < 0.2:
            starts = rng.permutation(4)[: rng.integers(1, 5)] * 9
            file = [segment(number, int(start), seconds=seconds) for start in starts]
        else:
            file = [row(number, seconds=seconds, speaker="é" if number % 5 else None)]
        for each in file:
            if rng.random() < 0.1:
                each["problem"] = "truncated"
        catalog += file
    if num_files:
        catalog.append(row(num_files, uid=None, id=None, path="protocol.csv:7", problem="malformed-row"))
    return [catalog[position] for position in rng.permutation(len(catalog))]


def changed_rows(rng: np.random.Generator, catalog: Sequence[CatalogRow]) -> list[CatalogRow]:
    """The catalog with some files removed, some changed, some mended or damaged, and some new ones."""
    changed: list[CatalogRow] = []
    for each in catalog:
        chance = rng.random()
        if chance < 0.05:
            continue
        if chance < 0.1:
            changed.append({**each, "fingerprint": f"{rng.integers(2**60):016x}", "seconds": 4.5})
        elif chance < 0.15 and each["uid"]:
            changed.append({**each, "problem": None if each["problem"] else "silent"})
        else:
            changed.append(each)
    added = random_rows(rng, 40)
    new = [
        {**each, "path": f"more/{each['path']}", "uid": each["uid"] and f"{int(each['uid'], 16) ^ 1:016x}"}
        for each in added
        if each["start"] is not None
    ]
    whole = [row(number, seconds=3.0) for number in range(1000, 1000 + int(rng.integers(60)))]
    return [*changed, *new, *whole]  # type: ignore[list-item]


@pytest.mark.parametrize(("max_buffered_bytes", "num_buckets"), [(1 << 30, 256), (30_000, 8)])
@pytest.mark.parametrize("seed", range(2))
def test_a_plan_is_that_of_its_definition(
    seed: int, max_buffered_bytes: int, num_buckets: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spill.Spill.__init__, "__defaults__", (max_buffered_bytes,))
    monkeypatch.setattr(planning, "NUM_BUCKETS", num_buckets)
    rng = np.random.default_rng(seed)
    catalog = random_rows(rng, int(rng.integers(1, 400)))
    previous: Planned | None = None
    defined: list[tuple[str, list[CatalogRow]]] = []
    for _ in range(3):
        shards = [group for group in defined if group[0]]
        defined = plan_plainly(catalog, shards, kib=300)
        planned, plans = plan(catalog, previous, kib=300)
        assert [shard.name for shard in plans] == [name for name, _ in defined if name]
        expected = [{**each, "shard": name or None} for name, group in defined for each in group]
        assert planned.to_pylist() == expected
        previous = planned, plans
        catalog = changed_rows(rng, catalog)


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
    assert [shard.name for shard in plans for _ in range(shard.num_rows)] == planned["shard"].to_pylist()
    assert sum(shard.num_rows for shard in plans) == 100


def test_shards_exceed_the_target_by_at_most_one_file():
    _, plans = plan(rows(range(300)), kib=400)
    assert all(shard.num_rows * (2.0 * 18_000 + 2560) <= 400 * KIB + 2.0 * 18_000 + 2560 for shard in plans)


def test_new_files_only_add_shards():
    before = plan(rows(range(100)))
    after, more = plan(rows(range(150)), previous=before)
    assert {shard.name for shard in before[1]} < {shard.name for shard in more}
    assert {uid for shard in before[1] for uid in members(after)[shard.name]} == set(
        before[0]["uid"].to_pylist()
    )


def test_a_changed_label_renames_only_its_shard():
    before = plan(rows(range(100)))
    changed = rows(range(100))
    changed[17]["label"] = "bonafide"
    _, after = plan(changed, previous=before)
    assert len({shard.name for shard in after} - {shard.name for shard in before[1]}) == 1
    assert len(after) == len(before[1])


def test_a_deleted_file_renames_only_its_shard():
    before = plan(rows(range(100)))
    _, after = plan(rows(range(99)), previous=before)
    assert len({shard.name for shard in after} - {shard.name for shard in before[1]}) == 1


def test_a_shard_that_the_previous_plan_lacks_is_planned_anew():
    catalog = rows(range(100))
    first = plan(catalog)
    interrupted: Any = [{**each, "shard": "toy-of-an-interrupted-ingest"} for each in catalog]
    again = list(plan_shards([catalogs.table(interrupted)], [], build_settings="r", target_bytes=400 * KIB))
    assert [shard for shard, _ in again] == first[1]


def test_other_build_settings_rename_every_shard():
    catalog = catalogs.table(rows(range(50)))
    one, two = (
        {
            shard.name
            for shard, _ in plan_shards([catalog], [], build_settings=settings, target_bytes=KIB * 400)
            if shard
        }
        for settings in ("soxr", "torchaudio")
    )
    assert one
    assert two
    assert not one & two


def test_rows_with_problems_stay_in_the_catalog_without_a_shard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "PROBLEM_ROWS", 1)
    problems = [row(20, problem="truncated"), row(21, problem="stray", uid=None)]
    planned, plans = plan([*rows(range(20)), *problems])
    assert len(planned) == 22
    assert sum(shard.num_rows for shard in plans) == 20
    assert pc.sum(pc.is_null(planned["shard"])).as_py() == 2


def test_segments_of_a_file_stay_in_order_in_one_shard():
    segments = [segment(file, start, seconds=20.0) for file in range(10) for start in (18, 0, 9)]
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


def test_a_catalog_of_problems_has_no_shards():
    planned, plans = plan([row(number, problem="truncated") for number in range(5)])
    assert len(planned) == 5
    assert plans == []


def test_finished_shards_are_not_missing():
    _, plans = plan(rows(range(60)))
    assert missing_shards(plans, {plans[0].name}) == plans[1:]
