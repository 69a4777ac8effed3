"""Every format of regions becomes the same rows, and a file that is damaged or hostile is an error that names it."""

from __future__ import annotations

import codecs
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.corpora.manifest import load_manifest
from pipeline.data.corpora.regions.files import find_region_files, read_region_file
from pipeline.data.corpora.regions.row import RegionRow
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.corpora.layouts import put

MANIFEST = """\
name = "toy"
folder = "Toy"
role = "evaluation"
id = "Toy-{utterance}"
homepage = "https://example.org"
licence = "unknown"
languages = ["en"]
sources = []
audio = "{split=dev|eval}/{utterance}.wav"
constants = { language = "en", artifact = "partial" }
[protocol]
files = "list.txt"
columns = ["utterance", "label"]
[translate]
label = { bonafide = "bonafide", spoof = "spoof" }
split = { dev = "validation", eval = "test" }
[regions]
"""

VAD = """\
files = "vad/{split=dev|eval}/{utterance}.vad"
columns = ["start", "end", "label"]
labels = { "0" = "spoof", "1" = "bonafide", "2" = "non_speech" }
"""
RTTM = """\
files = "{split=dev|eval}.rttm"
columns = ["{_=SPEAKER}", "utterance", "", "start", "duration", "", "", "label", "", ""]
skip = [";;*", "SPKR-INFO*", "LEXEME*"]
labels = { bonafide = "bonafide", spoof = "spoof" }
"""
INLINE = """\
files = "label_{split=dev|eval}.txt"
columns = ["utterance", "", ""]
each = "{start}-{end}-{label}"
labels = { bonafide = "bonafide", spoof = "spoof" }
"""
CSV = """\
files = "regions.csv"
separator = "comma"
columns = { file = "{utterance}.wav", from = "start", to = "end", kind = "label" }
labels = { real = "bonafide", fake = "spoof" }
"""
SEGMENTS = """\
files = "segment_labels/{split=dev|eval}_seglab_0.5.npy"
segment_s = 0.5
labels = { "0" = "spoof", "1" = "bonafide" }
"""


def read(root: Path, rules: str) -> list[RegionRow]:
    """The regions of a corpus, without the numbers of their lines."""
    put(root / "toy.toml", MANIFEST + rules)
    regions = load_manifest(root / "toy.toml").regions
    assert regions
    folder = Folder(str(root))
    return [
        row._replace(line=0)
        for file in find_region_files(regions, folder)
        for row in read_region_file(regions, folder, file)
    ]


def save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def rows(key: tuple[str, ...], first: str, second: str) -> list[RegionRow]:
    """The regions that each format of the tests describes."""
    return [RegionRow(key, 0.0, 1.0, first, 0), RegionRow(key, 1.0, 2.5, second, 0)]


def test_a_file_for_each_utterance_is_joined_by_its_path(tmp_path: Path):
    put(tmp_path / "vad/dev/CON_1.vad", "0.0 1.0 1\n1.0 2.5 0\n")
    put(tmp_path / "vad/dev/README", "times are seconds")
    assert read(tmp_path, VAD) == rows(("dev", "CON_1"), "1", "0")


def test_a_file_that_several_patterns_match_is_read_once(tmp_path: Path):
    put(tmp_path / "vad/dev/CON_1.vad", "0.0 1.0 1\n1.0 2.5 0\n")
    patterns = VAD.replace('files = "', 'files = ["vad/{split}/{utterance}.vad", "').replace(
        '.vad"\ncol', '.vad"]\ncol'
    )
    assert read(tmp_path, patterns) == rows(("dev", "CON_1"), "1", "0")


def test_rttm_has_starts_and_durations(tmp_path: Path):
    line = "SPEAKER CON_1 1 {} {} <NA> <NA> {} <NA> <NA>\n"
    put(tmp_path / "eval.rttm", line.format("0.0", "1.0", "bonafide") + line.format("1.0", "1.5", "spoof"))
    assert read(tmp_path, RTTM) == rows(("eval", "CON_1"), "bonafide", "spoof")


def test_lines_that_the_rules_skip_are_no_regions(tmp_path: Path):
    speaker = "SPEAKER CON_1 1 {} {} <NA> <NA> {} <NA> <NA>\n"
    put(
        tmp_path / "eval.rttm",
        ";; made from /data/eval\n;;\n\nSPKR-INFO CON_1 1 <NA> <NA> <NA> unknown bonafide <NA> <NA>\n"
        + speaker.format("0.0", "1.0", "bonafide")
        + "  ;; spliced here\nLEXEME\tCON_1\t1\t0.2\t0.3\tword\tlex\tbonafide\t0.9\t<NA>\n \n"
        + speaker.format("1.0", "1.5", "spoof"),
    )
    assert read(tmp_path, RTTM) == rows(("eval", "CON_1"), "bonafide", "spoof")


def test_comments_before_a_header_are_skipped(tmp_path: Path):
    put(
        tmp_path / "regions.csv",
        '# by hand, in "s\nkind,to,from,file\nreal,1,0,CON_1.wav\nfake,2.5,1,CON_1.wav\n',
    )
    assert read(tmp_path, f'{CSV}skip = ["#*"]\n') == rows(("CON_1",), "real", "fake")


def test_a_line_may_have_all_regions_of_an_utterance(tmp_path: Path):
    put(tmp_path / "label_dev.txt", "CON_1 2.5 spoof 0.00-1.00-bonafide 1.00-2.50-spoof\n")
    assert read(tmp_path, INLINE) == rows(("dev", "CON_1"), "bonafide", "spoof")


def test_a_table_with_a_header_may_have_other_columns(tmp_path: Path):
    put(tmp_path / "regions.csv", "kind,to,from,file,note\nreal,1,0,CON_1.wav,x\nfake,2.5,1,CON_1.wav,\n")
    assert read(tmp_path, CSV) == rows(("CON_1",), "real", "fake")


@pytest.mark.parametrize(
    "make",
    [
        lambda labels: np.array(labels),
        lambda labels: np.array(labels).astype(np.int64),
        lambda labels: list(map(int, labels)),
        lambda labels: list(np.array(labels)),
        lambda labels: np.array(labels, dtype=object),
        lambda labels: labels,
    ],
    ids=["text array", "int array", "list of ints", "list of NumPy text", "object array", "list of text"],
)
def test_equal_labels_of_segments_form_a_region(make: Callable[[list[str]], object], tmp_path: Path):
    save(tmp_path / "segment_labels/dev_seglab_0.5.npy", {"CON_1": make(["1", "1", "0", "0", "0"])})
    assert read(tmp_path, SEGMENTS) == rows(("dev", "CON_1"), "1", "0")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_segments_of_other_versions_of_numpy_are_read(protocol: int, core: bytes, tmp_path: Path):
    path = tmp_path / "segment_labels/eval_seglab_0.5.npy"
    save(path, None)
    header = path.read_bytes().partition(b"\n")[0] + b"\n"
    content = pickle.dumps(np.array({"CON_1": np.array(["1", "1", "0", "0", "0"])}, dtype=object), protocol)
    # Text is preceded by its length, and so is the frame of protocol 4, which may be left out.
    for before, after in (
        (b"cnumpy._core.multiarray", b"c" + core),
        (b"\x16numpy._core.multiarray", bytes([len(core)]) + core),
    ):
        content = content.replace(before, after)
    if protocol == 4:
        content = content[:2] + content[11:]
    path.write_bytes(header + content)
    assert read(tmp_path, SEGMENTS) == rows(("eval", "CON_1"), "1", "0")


class Hostile:
    """Executes a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_segments_never_execute_anything(tmp_path: Path):
    save(tmp_path / "segment_labels/dev_seglab_0.5.npy", {"CON_1": Hostile(f"touch {tmp_path}/executed")})
    with pytest.raises(InputError, match=r"dev_seglab_0\.5\.npy: .*it names posix\.system, which is no data"):
        read(tmp_path, SEGMENTS)
    assert not (tmp_path / "executed").exists()


class Encoded:
    """Bytes that a codec makes, such as those of a small archive that unpacks to all memory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return codecs.encode, (b"x", "zlib")


class Forged:
    """An array whose bytes NumPy would take for pointers."""

    def __reduce__(self) -> tuple[Any, ...]:
        whole: Any = np.zeros(0, dtype=object).__reduce__()
        return whole[0], whole[1], (1, (1,), np.dtype("O"), False, b"\x41" * 8)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"CON_1": Encoded()}, "it encodes text as zlib"),
        ({"CON_1": Forged()}, "it has an array of .O8"),
        ({"CON_1": np.zeros(3)}, "it has an array of <f8"),
        ({"CON_1": 3}, "'CON_1' has int; expected a list of labels"),
        ({"CON_1": [None]}, "CON_1 has the label None"),
        (["1", "0"], "it is an array of object with the shape"),
        ("1", "no dictionary of lists of labels"),
    ],
)
def test_segments_that_are_no_lists_of_labels_are_refused(content: object, problem: str, tmp_path: Path):
    save(tmp_path / "segment_labels/dev_seglab_0.5.npy", content)
    with pytest.raises(InputError, match=rf"dev_seglab_0\.5\.npy: .*{problem}"):
        read(tmp_path, SEGMENTS)


def test_a_damaged_file_of_segments_is_refused(tmp_path: Path):
    path = tmp_path / "segment_labels/dev_seglab_0.5.npy"
    save(path, {"CON_1": np.array(["1"] * 50)})
    data = path.read_bytes()
    for damaged in (b"", b"1 0 1", data[:60], data[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"dev_seglab_0\.5\.npy: not a dictionary of labels"):
            read(tmp_path, SEGMENTS)


@pytest.mark.parametrize(
    ("rules", "name", "line", "problem"),
    [
        (VAD, "vad/dev/CON_1.vad", "0.0 1.0", "2 columns instead of 3"),
        (VAD, "vad/dev/CON_1.vad", "0.0 1.0 1 1", "4 columns instead of 3"),
        (VAD, "vad/dev/CON_1.vad", "zero 1.0 1", "'zero' and '1.0' as times"),
        (VAD, "vad/dev/CON_1.vad", "-0.1 1.0 1", "'-0.1' and '1.0' as times"),
        (VAD, "vad/dev/CON_1.vad", "0 inf 1", "'0' and 'inf' as times"),
        (VAD, "vad/dev/CON_1.vad", "2.0 1.0 1", "a region that ends at 1 s, before it starts at 2 s"),
        (
            RTTM,
            "dev.rttm",
            "NON-SPEECH CON_1 1 0.0 1.0 noise <NA> spoof <NA> <NA>",
            "'NON-SPEECH' in a column of {_=SPEAKER}",
        ),
        (INLINE, "label_dev.txt", "CON_1 2.5 spoof 0.0-1.0", "'0.0-1.0' instead of"),
        (INLINE, "label_dev.txt", "CON_1 2.5", "2 columns instead of 3"),
    ],
)
def test_a_malformed_line_is_an_error_that_names_file_and_line(
    rules: str, name: str, line: str, problem: str, tmp_path: Path
):
    good = {VAD: "0 1 1", RTTM: "SPEAKER a 1 0 1 <NA> <NA> spoof <NA> <NA>", INLINE: "a 1 spoof 0-1-spoof"}
    put(tmp_path / name, f"{good[rules]}\n\n{line}\n")
    with pytest.raises(
        InputError, match=rf"{name}: line 3: found .*{problem}.*; expected .*start.*; skip lists"
    ) as error:
        read(tmp_path, rules)
    assert "\n" not in str(error.value)


def test_a_name_that_has_another_form_than_its_column_is_malformed(tmp_path: Path):
    put(tmp_path / "regions.csv", "kind,to,from,file\nreal,1,0,CON_1.flac\n")
    with pytest.raises(
        InputError, match=r"regions\.csv: line 2: found 'CON_1\.flac' in a column of \{utterance\}\.wav"
    ):
        read(tmp_path, CSV)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('files = "vad/', 'files = "../vad/', "regions.files: .* is not a path below the root"),
        ('files = "vad/', 'files = "/vad/', "regions.files: .* is not a path below the root"),
        ('"0" = "spoof"', '"0" = "fake"', "regions.labels: 'fake' is not one of bonafide, spoof, non_speech"),
        ('"end", ', "", "regions.columns: give start, label, and one of end and duration"),
        ('"end", ', '"end", "duration", ', "regions.columns: give start, label, and one of end"),
        ("columns", "segment_s = 0.02\ncolumns", "regions.columns: give exactly one of"),
        ("{utterance}", "{name}", "regions: audio .* lacks name, on which regions are joined"),
        ("columns", "rows = 1\ncolumns", "regions.rows: unknown key"),
        ("columns", 'skip = ["#*"]\nsegment_s = 0.02\n#', "regions.skip: needs columns"),
        ("columns", 'separator = "colon"\ncolumns', "regions.separator: 'colon' is not one of"),
    ],
)
def test_a_mistake_in_the_rules_is_reported_with_its_key(old: str, new: str, message: str, tmp_path: Path):
    assert old in VAD
    with pytest.raises(InputError, match=rf"toy\.toml: {message}"):
        read(tmp_path, VAD.replace(old, new))


def test_parts_of_files_have_no_regions(tmp_path: Path):
    with pytest.raises(InputError, match="regions: utterances that are parts of files cannot have regions"):
        read(tmp_path, f"{VAD}[chunks]\nseconds = 4\nchoices = [4]\n")
