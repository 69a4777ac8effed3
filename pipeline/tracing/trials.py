"""Read trials, each of which asks whether two sets of utterances come from one system.

STOPA has a text file of trials for each fingerprint, such as AA01-co-100_trials.txt: the mean of 100 utterances of the
attack AA01. Any other question is a CSV with the columns first and second, and same if the answer is known. A set is
an utterance, all utterances of a folder (its name ends in /), or those of a system of the gallery: system:NAME, or
system:NAME#10 for ten of them, chosen by hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.errors import InputError
from pipeline.storage import Folder

SYSTEM = "system:"
"""Before the name of a system of the gallery."""

LIMIT = "#"
"""Between the name of a system and how many of its utterances make the set."""

STOPA_TARGETS = {
    "IsTargetATK": "attack",
    "IsTargetAcousticModel": "acoustic_model",
    "IsTargetVocoderModel": "vocoder",
}
"""Column of a list of STOPA → what its trials agree in."""

STOPA_FILE, STOPA_ATTACK = "FileName", "ATK"

PAIR_TARGET = "system"

_FINGERPRINT = re.compile(r"(?P<attack>[^-]+)-(?P<content>co|nc)-(?P<size>\d+|all)_trials\.txt")


@dataclass(frozen=True)
class Trials:
    """Trials of one or several files."""

    first: pa.Array
    """[T] name of the first set."""
    second: pa.Array
    """[T] name of the second set."""
    same: Mapping[str, pa.Array]
    """What trials agree in → [T] whether they do, null where that is not known."""
    attacks: pa.Array | None
    """[T] attack of the second set, in lists of STOPA."""


def read_trials(location: str) -> Trials:
    """Read a CSV of pairs, a list of STOPA, or a folder of such lists.

    Raises:
        InputError: there is no such file, or it is neither.
    """
    parent, name = Folder.of_file(location)
    folder = Folder(location)
    if name.endswith(".csv"):
        return _read_pairs(parent, name)
    if name.endswith(".txt"):
        return _read_stopa(parent, [name])
    names = sorted(
        info.name for info in folder.find() if _FINGERPRINT.fullmatch(PurePosixPath(info.name).name)
    )
    if not names:
        raise InputError(
            f"{location}: has no lists such as AA01-co-100_trials.txt; give a folder of lists of STOPA, one of them, "
            "or a .csv with the columns first and second"
        )
    return _read_stopa(folder, names)


def _read_pairs(folder: Folder, name: str) -> Trials:
    types = {"first": pa.string(), "second": pa.string(), "same": pa.bool_()}
    table = _read(folder, name, ",", types, ["first", "second"])
    same = (
        table["same"].combine_chunks() if "same" in table.column_names else pa.nulls(len(table), pa.bool_())
    )
    return Trials(
        table["first"].combine_chunks(), table["second"].combine_chunks(), {PAIR_TARGET: same}, None
    )


def _read_stopa(folder: Folder, names: list[str]) -> Trials:
    tables = []
    types = {STOPA_FILE: pa.string(), STOPA_ATTACK: pa.string()} | dict.fromkeys(STOPA_TARGETS, pa.bool_())
    for name in names:
        fingerprint = _FINGERPRINT.fullmatch(PurePosixPath(name).name)
        if fingerprint is None:
            raise InputError(
                f"{folder.location(name)}: the name of a list of STOPA is like AA01-co-100_trials.txt, because it "
                "states the attack and how many utterances its fingerprint has"
            )
        limit = "" if fingerprint["size"] == "all" else f"{LIMIT}{fingerprint['size']}"
        table = _read(folder, name, " ", types, list(types)).select(list(types))
        first = pa.array([f"{SYSTEM}{fingerprint['attack']}{limit}"] * len(table), pa.string())
        tables.append(table.append_column("first", first))
    joined = pa.concat_tables(tables).combine_chunks()
    columns = {name: joined[name].combine_chunks() for name in joined.column_names}
    return Trials(
        columns["first"],
        columns[STOPA_FILE],
        {target: columns[name] for name, target in STOPA_TARGETS.items()},
        columns[STOPA_ATTACK],
    )


def _read(
    folder: Folder, name: str, delimiter: str, types: Mapping[str, pa.DataType], needed: list[str]
) -> pa.Table:
    where = folder.location(name)
    if not folder.exists(name):
        raise InputError(
            f"{where}: does not exist; --trials is a file of trials, or a folder of lists of STOPA"
        )
    try:
        table = csv.read_csv(
            pa.BufferReader(folder.read(name)),
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(column_types=dict(types), strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: not a list of trials: {reason}") from error
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        raise InputError(
            f"{where}: has no column {missing[0]}; its columns are {', '.join(table.column_names)}"
        )
    empty = pc.any(pc.equal(table[needed[0]], "")).as_py()
    if empty:
        raise InputError(f"{where}: a line has nothing in the column {needed[0]}")
    return table
