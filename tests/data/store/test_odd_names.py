"""Odd names on their way from the listing through reading into the catalog, on a local disk and on S3."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.pattern import Pattern, Template
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import probing
from pipeline.storage import Folder

NAMES: tuple[str, ...] = (
    'double " quotes',
    "single ' quotes",
    "`id`",
    "$HOME",
    "$(id)",
    "a & b; c | d",
    "<angle>",
    "{brace}",
    "back\\slash",
    "\\leading",
    "q\\r/in a folder",
    "a\\..\\..\\up",
    "C:\\Users\\a",
    "-rf",
    "--help",
    " leading space",
    "trailing space /in a folder",
    "trailing dot./in a folder",
    "two  spaces",
    "dots..in..a..row",
    "a.mp3",
    "folder.wav/a",
    "percent %41",
    "%2e%2e",
    "%2F",
    "%",
    "percent A",
    "hash #1",
    "question?",
    "a?versionId",
    "star *",
    "[bracket]",
    "~",
    "~root/a",
    "tilde~1",
    "equals=plus+comma,",
    "at@eaDir",
    "colon: 12:00:00",
    "s3:/bucket",
    "a::b",
    "tab\there",
    "newline\nhere",
    "return\rhere",
    "bell\x07",
    "delete\x7f",
    "byte order mark \ufeff",
    "zero width \u200b",
    "right to left \u202e",
    "caf\u00e9 composed",
    "cafe\u0301 composed",
    "\u2126 ohm",
    "\u03a9 ohm",
    "ß ẞ ss",
    "ıİiI",
    "日本語/音声",
    "العربية",
    "🎙️ 👩‍🚀",
    "\U0010ffff",
    "x" * 240,
    "é" * 120,
    "CON",
    "nul",
    "aux/COM1",
    "lpt1.txt",
    "0",
    "none",
    "nan",
    "UPPER",
    "upper",
)
NOT_ON_THE_TEST_SERVER = ("\n",)
"""Letters of keys for which the S3 server of the tests finds no route."""

ODD = Manifest(
    name="odd",
    folder="odd",
    role="train",
    id=Template("{utterance}"),
    homepage="",
    licence="unknown",
    non_commercial=None,
    languages=(),
    sources=(),
    audio=(Pattern("{utterance**}.wav"),),
    constants={"label": "bonafide"},
)


def wav(num_samples: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, num_samples), 16_000, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_file_of_any_name_reaches_the_catalog(place: str, tmp_path: Path, request: pytest.FixtureRequest):
    names = list(NAMES)
    if place == "local":
        root = Folder(str(tmp_path / "root"))
    else:
        root = Folder(f"{request.getfixturevalue('bucket')}/root")
        names = [name for name in names if not any(letter in name for letter in NOT_ON_THE_TEST_SERVER)]
    contents = {f"{name}.wav": wav(8000 + number) for number, name in enumerate(names)}
    for path, data in contents.items():
        root.commit(path, data)
    listed = [info.name for info in root.find()]
    assert listed == sorted(contents)
    assert {path: root.read(path) for path in listed} == contents

    rows = catalogs.rows(read_files(ODD, root), "odd", Recipe())
    table = catalogs.table(list(probing.probe_rows(rows, root, ODD)))
    assert {row["path"]: (row["id"], row["num_samples"], row["problem"]) for row in table.to_pylist()} == {
        f"{name}.wav": (name, 8000 + number, None) for number, name in enumerate(names)
    }
    assert len(set(table["uid"].to_pylist())) == len(names)
