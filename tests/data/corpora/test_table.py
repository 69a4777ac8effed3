"""Tables are read line by line: a fault costs its own line, and says what was found and what was expected."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from pipeline.data.corpora.table import Malformed, Table, leaves_root, split_cells
from pipeline.errors import InputError
from pipeline.storage import Folder


def table(root: Path, content: str | bytes, separator: str = "comma") -> Table:
    (root / "table.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(Folder(str(root)), "table.csv", separator)


def rows(root: Path, content: str | bytes, separator: str = "comma") -> dict[int, list[str] | str]:
    """By line number: the cells of a row of two columns, or what was found in its place."""
    read = table(root, content, separator).rows(["a", "b"], has_header=False)
    return {number: cells.found if isinstance(cells, Malformed) else cells for number, cells in read}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,x\n2,y\n", {1: ["1", "x"], 2: ["2", "y"]}),
        ("1,x\r\n2,y\r\n", {1: ["1", "x"], 2: ["2", "y"]}),
        ("1,x\r2,y\r", {1: ["1", "x"], 2: ["2", "y"]}),
        ("1,x\n2,y\r3,z\r\n4,w", {1: ["1", "x"], 2: ["2", "y"], 3: ["3", "z"], 4: ["4", "w"]}),
        ("1,x\r\r\n2,y\r\r\n", {1: ["1", "x"], 3: ["2", "y"]}),
        ("\n1,x\n \t\n2,y", {2: ["1", "x"], 4: ["2", "y"]}),
    ],
    ids=["LF", "CRLF", "CR", "mixed", "CR CRLF", "blank lines"],
)
def test_every_kind_of_line_end_ends_a_line(content: str, expected: dict[int, list[str]], tmp_path: Path):
    assert rows(tmp_path, content) == expected


@pytest.mark.parametrize("separator", ["comma", "space", "tab", "pipe"])
@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x0c", "\x0b", "\x1c", "\x1d", "\x1e", "\x85"])
def test_a_character_that_only_python_takes_for_a_line_end_stays_in_its_cell(
    character: str, separator: str, tmp_path: Path
):
    delimiter = {"comma": ",", "space": " ", "tab": "\t", "pipe": "|"}[separator]
    assert rows(tmp_path, f"1{delimiter}x{character}y\n", separator) == {1: ["1", f"x{character}y"]}


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('1,"x, y"', ["1", "x, y"]),
        ('1, "x, y" ', ["1", "x, y"]),
        ('"1" ,"x"', ["1", "x"]),
        ('1,"say ""x"""', ["1", 'say "x"']),
        ('1,""', ["1", ""]),
        ('1,Dwayne "The Rock" Johnson', ["1", 'Dwayne "The Rock" Johnson']),
        ("1,O'Hara", ["1", "O'Hara"]),
        (" 1 ,\tx\t", ["1", "x"]),
        ("1,", ["1", ""]),
        (",", ["", ""]),
    ],
)
def test_a_cell_may_be_quoted_as_a_whole(line: str, cells: list[str]):
    assert split_cells(line, "comma") == cells


@pytest.mark.parametrize(
    "line",
    [
        '1,"Alec',
        '1,Alec"',
        '1,Al"ec',
        '1,"Alec"x',
        '1,"Alec" x',
        '1,"Al"ec"',
        '1,"',
        '1,"""',
        '1,x "a,b" y',
        r'1,"Al \"x\" ec"',
        '"1,x',
    ],
)
def test_an_unbalanced_quote_costs_its_own_line_only(line: str, tmp_path: Path):
    found = rows(tmp_path, f"0,before\n{line}\n2,after\n")
    assert {number: found[number] for number in (1, 3)} == {1: ["0", "before"], 3: ["2", "after"]}
    assert str(found[2]).startswith("an unbalanced quote in column ")
    assert repr(line) in str(found[2])


@pytest.mark.parametrize("separator", ["space", "tab", "pipe"])
def test_quotes_are_text_where_the_separator_is_no_comma(separator: str, tmp_path: Path):
    delimiter = {"space": " ", "tab": "\t", "pipe": "|"}[separator]
    assert rows(tmp_path, f'1{delimiter}"x\n2{delimiter}y"\n', separator) == {1: ["1", '"x'], 2: ["2", 'y"']}


def test_a_cell_that_continues_on_the_next_line_gives_two_malformed_rows(tmp_path: Path):
    assert rows(tmp_path, '1,"x\ny"\n2,z\n') == {
        1: "an unbalanced quote in column 2 of '1,\"x'",
        2: "an unbalanced quote in column 1 of 'y\"'",
        3: ["2", "z"],
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1", "1 column in '1'"),
        ("1,x,", "3 columns in '1,x,'"),
        ("1,x,,", "4 columns in '1,x,,'"),
        ("1;x", "1 column in '1;x'"),
        ("1\tx", "1 column in '1\\tx'"),
        (f"1,{'x' * 500},2", f"3 columns in '1,{'x' * 77}…'"),
        ("1\ufeff,x", "a byte order mark within '1\\ufeff,x'"),
    ],
)
def test_a_line_that_is_no_row_says_what_was_found(line: str, found: str, tmp_path: Path):
    assert rows(tmp_path, f"0,x\n{line}\n") == {1: ["0", "x"], 2: found}


def test_spaces_and_tabs_separate_alike_in_a_table_with_spaces(tmp_path: Path):
    assert rows(tmp_path, " 1 \t x\t\n2\ty\n3 \u00a0\n", "space") == {
        1: ["1", "x"],
        2: ["2", "y"],
        3: ["3", "\u00a0"],
    }


def test_a_byte_that_is_not_utf_8_costs_its_own_line_only(tmp_path: Path):
    found = rows(tmp_path, b"1,Zo\xeb\n2,Zo\xc3\xab\n3,\xc3\n")
    assert found == {
        1: "the byte 0xeb, which is not UTF-8, in '1,Zo\\\\xeb'",
        2: ["2", "Zoë"],
        3: "the byte 0xc3, which is not UTF-8, in '3,\\\\xc3'",
    }


def test_the_byte_order_marks_of_joined_tables_are_dropped(tmp_path: Path):
    assert rows(tmp_path, "\ufeff1,x\n\ufeff2,é\n") == {1: ["1", "x"], 2: ["2", "é"]}


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"a,b\n1,x\n", mtime=0), "it is compressed"),
        (zipped(), "it is a zip archive or an XLSX workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "it is an XLS workbook"),
        (b"PAR1\x15\x04\x15", "it is a Parquet file"),
        ("a,b\n1,x\n".encode("utf-16"), "it is UTF-16"),
        (b"\n<!DOCTYPE html>\n<html>", "it is a web page"),
        (b"\xef\xbb\xbf<HTML><head>", "it is a web page"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "it is a web page"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a pointer of Git LFS"),
    ],
)
def test_another_format_under_the_name_of_a_table_is_named(content: bytes, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=rf"table\.csv: not a table in UTF-8: {message}"):
        list(table(tmp_path, content).lines)


def test_what_is_no_file_is_named(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    root = Folder(str(tmp_path))
    for name, message in {
        "folder": "folder: Is a directory; expected a table",
        "none": "none: no such file; expected a table",
        "loop": "loop: Too many levels of symbolic links; expected a table",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            list(Table(root, name, "comma").lines)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a;b\n", r"lacks 'a', 'b'; line 1 has 1 column: a;b; expected a, b, separated by comma"),
        ("a\tb\n", r"lacks 'a', 'b'; line 1 has 1 column: a\\tb; expected a, b, separated by comma"),
        ("A,b\n", r"lacks 'a'; line 1 has 2 columns: A, b; expected a, b"),
        ("\n\n1,x\n", r"lacks 'a', 'b'; line 3 has 2 columns: 1, x; expected a, b"),
        ("a,b,b\n", r"repeats 'b'; line 1 has 3 columns: a, b, b; expected a, b"),
        ('a, b ,"b"\n', r"repeats 'b'; line 1 has 3 columns: a, b, b; expected a, b"),
        ('a,"b\n', r"has an unbalanced quote in column 2 of 'a,\"b' \(line 1\); expected a, b"),
        ("", r"lacks 'a', 'b'; it is empty; expected a, b"),
    ],
)
def test_a_wrong_header_is_an_error_that_names_line_and_columns(header: str, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=rf"table\.csv: its header {message}") as caught:
        table(tmp_path, header).header(["a", "b"])
    assert "\n" not in str(caught.value)


def test_columns_that_nobody_uses_may_have_any_names(tmp_path: Path):
    assert table(tmp_path, "\ufeff a ,,note,note,b,\n").header(["a", "b"]) == [
        "a",
        "",
        "note",
        "note",
        "b",
        "",
    ]


def test_a_header_within_a_table_is_no_row(tmp_path: Path):
    read = table(tmp_path, "a,b\n1,x\na,b\n2,y\n")
    columns = read.header(["a", "b"])
    assert dict(read.rows(columns, has_header=True)) == {
        2: ["1", "x"],
        3: Malformed("the header again in 'a,b'"),
        4: ["2", "y"],
    }


def test_a_second_header_with_another_order_is_an_error(tmp_path: Path):
    read = table(tmp_path, "a,b\n1,x\nb,a\ny,2\n")
    with pytest.raises(InputError, match=r"another header, in line 3, has 2 columns: b, a; expected .* a, b"):
        list(read.rows(read.header(["a", "b"]), has_header=True))


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "..", r"..\a", r"a\..\b", "a\0b"])
def test_a_path_that_may_leave_the_root_is_refused(path: str):
    assert leaves_root(path)


@pytest.mark.parametrize("path", ["a", "a/b", r"a\b", "a..b", "...", "a..", '"', "a b"])
def test_a_path_below_the_root_is_accepted(path: str):
    assert not leaves_root(path)
