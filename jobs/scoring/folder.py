"""Reading and writing of a SCORES folder; `pipeline.evaluation.layout` has the names of its files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.scoring.config import ScoreConfig
from jobs.scoring.inputs import Row
from pipeline import tables, tracking
from pipeline.config import to_toml
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.evaluation.complete import find_score_folders
from pipeline.storage import Folder


def policy_folders(out: Folder, policies: Sequence[str]) -> dict[str, Folder]:
    """Window policy → folder of its scores: `out` itself if there is one policy, else a folder in it for each."""
    if len(policies) == 1:
        return {policies[0]: out}
    return {policy: out.folder(layout.policy_folder(policy)) for policy in policies}


def check_folders(out: Folder, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a folder has room for scores under some window policies, without writing anything.

    The scores of further policies, which another command has written there, must differ in nothing but the policy and
    its calibration.

    Args:
        out: as for `policy_folders`.
        identities: window policy → identity of its scores.

    Raises:
        InputError: the folder holds scores of another identity, or those of one policy where several have a folder
            each, or the reverse.
    """
    if len(identities) == 1 and out.exists(layout.POLICIES):
        raise InputError(f"{out.uri}: holds a folder for each of several windows; choose another --out")
    if len(identities) > 1 and out.exists(layout.IDENTITY):
        raise InputError(f"{out.uri}: holds scores of one window; choose another --out for several")
    folders = policy_folders(out, list(identities))
    for policy, folder in folders.items():
        check_folder(folder, identities[policy])
    for folder in find_score_folders(out):
        if folder not in folders.values():
            check_folder(folder, next(iter(identities.values())), ignored={"policy", "calibration"})


def check_folder(out: Folder, identity: Mapping[str, Any], ignored: Collection[str] = ()) -> None:
    """Check that a folder holds no scores of another identity, without writing anything.

    Args:
        out: the folder of scores under one window policy.
        identity: what determines the scores.
        ignored: entries that may differ.

    Raises:
        InputError: it does.
    """
    if not out.exists(layout.IDENTITY):
        return
    existing = json.loads(out.read(layout.IDENTITY))
    differing = [
        key
        for key in sorted((identity.keys() | existing.keys()) - set(ignored))
        if existing.get(key) != identity.get(key)
    ]
    if differing:
        raise InputError(f"{out.uri}: holds scores with another {', '.join(differing)}; choose another --out")


def claim_folders(out: Folder, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Reserve a folder for scores under some window policies; see `check_folders`.

    Raises:
        InputError: another process has reserved it for another identity.
    """
    for policy, folder in policy_folders(out, list(identities)).items():
        if len(identities) > 1:
            out.commit(layout.policy_marker(policy), f"{policy}\n".encode())
        if not folder.create(layout.IDENTITY, _to_json(identities[policy])):
            check_folder(folder, identities[policy])


def write_plan(out: Folder, rows: pa.Table, part_sizes: Sequence[int]) -> None:
    """Write the rows to score, one row group per part, unless an earlier run has written them."""
    if not out.exists(layout.PLAN):
        out.commit(layout.PLAN, tables.to_parquet(rows, part_sizes))


def missing_parts(out: Folder, num_parts: int) -> list[int]:
    """List the parts without scores."""
    done = {info.name for info in out.find(layout.PARTS)} if out.exists(layout.PARTS) else set()
    return [part for part in range(num_parts) if layout.part_name(part) not in done]


def count_scores(out: Folder, num_parts: int) -> int:
    """Count the scores of all parts."""
    columns = ["id"]
    return sum(len(tables.read_table(out, layout.part_name(part), columns)) for part in range(num_parts))


@dataclass(frozen=True)
class PartTables:
    """What is written of a part; a table without rows is not."""

    scores: pa.Table
    rejects: pa.Table | None = None
    embeddings: pa.Table | None = None
    frames: pa.Table | None = None


def write_part(out: Folder, part: int, written: PartTables) -> None:
    """Write all of a part, and last its scores, whose file marks the part as complete."""
    beside = {
        layout.part_rejects_name(part): written.rejects,
        layout.embeddings_name(part): written.embeddings,
        layout.frames_name(part): written.frames,
    }
    for name, table in beside.items():
        if table:
            out.commit(name, tables.to_parquet(table))
        else:
            out.delete(name)  # a worker that was killed before it wrote the scores may have had some
    out.commit(layout.part_name(part), tables.to_parquet(written.scores))


def count_embeddings(out: Folder, num_parts: int) -> int:
    """Count the utterances of all parts that have embeddings."""
    found = {info.name for info in out.find(layout.EMBEDDINGS)} if out.exists(layout.EMBEDDINGS) else set()
    names = [layout.embeddings_name(part) for part in range(num_parts)]
    return sum(tables.count_rows(out, name) for name in names if name in found)


def read_rejects(out: Folder, num_parts: int) -> list[Row]:
    """Read the rejects of all parts, part after part."""
    found = (
        {info.name for info in out.find(layout.PART_REJECTS)} if out.exists(layout.PART_REJECTS) else set()
    )
    names = [layout.part_rejects_name(part) for part in range(num_parts)]
    return [row for name in names if name in found for row in tables.read_table(out, name).to_pylist()]


def publish(
    out: Folder,
    config: ScoreConfig,
    description: Mapping[str, Any],
    rejects: Sequence[Row],
    regions: pa.Table | None,
) -> None:
    """Complete the folder: regions, rejects, settings, and last the description, which marks the scores as complete."""
    if regions:
        out.commit(layout.REGIONS, tables.to_parquet(regions.cast(layout.REGION_COLUMNS)))
    table = pa.Table.from_pylist(list(rejects), layout.REJECT_COLUMNS)
    out.commit(layout.REJECTS, tables.to_parquet(table))
    out.commit(layout.CONFIG, tracking.without_credentials(to_toml(config)).encode())
    out.commit(layout.DESCRIPTION, _to_json(description))


def _to_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode()
