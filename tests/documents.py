"""The documents of the repository, and the examples in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "cluster/README.md",
    "manifests/README.md",
    *PAGES,
]


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def examples(document: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", read(document), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in blocks]


def all_examples(language: str) -> list[object]:
    """Every block of a language, as parameters of a test."""
    return [
        pytest.param(example, id=f"{document}-{number}")
        for document in DOCUMENTS
        for number, example in enumerate(examples(document, language))
    ]


def spans(document: str) -> list[str]:
    """The `inline code` of a document."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", read(document))


def command_lines(script: str) -> Iterator[tuple[str, list[str]]]:
    """The command and the arguments of every `bonafide NAME …` and `python -m jobs.NAME …`."""
    for line in re.sub(r"\\\n\s*", " ", script).splitlines():
        for name, rest in re.findall(r"(?:^|\s)(?:bonafide |python -m jobs\.)([a-z][\w.]*)(.*)", line):
            arguments = shlex.split(rest, comments=True)
            yield name, arguments[: arguments.index("&")] if "&" in arguments else arguments
