"""Read complete SCORES folders: their description, and the rows of all their parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline import tables
from pipeline.errors import InputError
from pipeline.evaluation import layout
from pipeline.storage import Folder


def find_score_folders(location: Folder) -> list[Folder]:
    """The SCORES folders of a location: one for each window policy if several were scored there, else itself."""
    if not location.exists(layout.POLICIES):
        return [location]
    folders = [layout.folder_of_marker(info.name) for info in location.find(layout.POLICIES)]
    return [location.folder(name) for name in folders if name] or [location]


def find_score_folder(location: Folder) -> Folder:
    """The SCORES folder of a location that has only one.

    Raises:
        InputError: it has several.
    """
    folder, *others = find_score_folders(location)
    if others:
        names = ", ".join(each.uri for each in (folder, *others))
        raise InputError(f"{location.uri}: holds scores under several window policies; give one of {names}")
    return folder


def load_description(folder: Folder) -> dict[str, Any]:
    """Read the description of complete scores.

    Raises:
        InputError: the folder has no scores, scoring did not finish, or the description is damaged.
    """
    where = folder.location()
    if not folder.exists(layout.DESCRIPTION):
        raise InputError(
            f"{where}: scoring did not finish, {layout.DESCRIPTION} is missing; run the same `bonafide score` again"
            if folder.exists(layout.PARTS)
            else f"{where}: no scores here; write them with `bonafide score --out {where}`"
        )
    try:
        identity: dict[str, Any] = json.loads(folder.read(layout.DESCRIPTION))
        str(identity["system"]), int(identity["num_utterances"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder.location(layout.DESCRIPTION)}: not a description by `bonafide score` ({error!r}); "
            "score into an empty folder"
        ) from error
    return identity


def part_files(folder: Folder, kind: str = layout.PARTS) -> list[str]:
    """Names of the Parquet files of all parts, in order; none if no part has one.

    Args:
        folder: SCORES.
        kind: `layout.PARTS`, or another folder with a file for each part.
    """
    if not folder.exists(kind):
        return []
    return sorted(info.name for info in folder.find(kind) if info.name.endswith(".parquet"))


def check_count(folder: Folder, identity: Mapping[str, Any], num_rows: int) -> None:
    """Check that the parts have as many scores as the description states.

    Raises:
        InputError: they have not.
    """
    if num_rows != identity["num_utterances"]:
        raise InputError(
            f"{folder.location()}: {layout.DESCRIPTION} states {identity['num_utterances']} utterances, the Parquet "
            f"files have {num_rows}; score into an empty folder"
        )


def score_columns(identity: Mapping[str, Any]) -> pa.Schema:
    """The columns of the scores that have this description."""
    return layout.FILE_COLUMNS if identity.get("audio") else layout.UTTERANCE_COLUMNS


def key_column(identity: Mapping[str, Any]) -> str:
    """The column that identifies an utterance in the scores with this description."""
    return layout.FILE_KEY if identity.get("audio") else layout.STORE_KEY


def keyed_columns(identity: Mapping[str, Any], wanted: pa.Schema) -> list[str]:
    """The columns from which `keyed_rows` makes the wanted ones."""
    known = score_columns(identity).names
    return list(dict.fromkeys([key_column(identity), *(name for name in wanted.names if name in known)]))


def keyed_rows(table: pa.Table, identity: Mapping[str, Any], wanted: pa.Schema) -> pa.Table:
    """Select columns of scores, whatever their kind: `key` is what identifies an utterance, and missing ones are null.

    Args:
        table: with `keyed_columns`.
        identity: description of the scores.
        wanted: the columns of the result, of which one is `key`.
    """
    columns = {name: table[name] for name in table.column_names} | {"key": table[key_column(identity)]}
    nulls = {field.name: pa.nulls(len(table), field.type) for field in wanted if field.name not in columns}
    return pa.table(columns | nulls).select(wanted.names).cast(wanted)


def load_columns(
    folder: Folder, identity: Mapping[str, Any], columns: Sequence[str] | None = None
) -> pa.Table:
    """Read some columns of all scores, or all columns; those that their version did not have are null.

    Args:
        folder: SCORES.
        identity: its description.
        columns: their names; those that scores of this kind never have are left out.

    Raises:
        InputError: the number of rows differs from the description, or a file is damaged.
    """
    schema = score_columns(identity)
    chosen = schema.names if columns is None else [name for name in columns if name in schema.names]
    rows = read_parts(folder, part_files(folder), schema, chosen)
    check_count(folder, identity, rows.num_rows)
    return rows


def read_parts(
    folder: Folder, names: Sequence[str], schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read some columns of some Parquet files of parts, one below the other.

    Raises:
        InputError: a file is damaged.
    """
    chosen = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    parts = [chosen.empty_table()]
    for name in names:
        try:
            parts.append(tables.read_columns(folder, name, schema, chosen.names).cast(chosen))
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{folder.location(name)}: not a Parquet file of scores: {reason}") from error
    return pa.concat_tables(parts)
