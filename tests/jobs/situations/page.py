"""The page `docs/troubleshooting.md`, made from the table: `python -m tests.jobs.situations.page` writes it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.jobs.situations.situation import ROOT, Situation
from tests.jobs.situations.table import TABLE

PAGE = ROOT / "docs" / "troubleshooting.md"
HERE = "/home/me"
"""Stands for the working folder."""

INTRODUCTION = """\
# When something goes wrong

If a command fails for a reason that you can fix, it prints one line on standard error and ends with a status other than
0. The tables list these lines; `…` stands for names and numbers. A test causes each of the situations, and checks the
line, the exit status and the files that the command leaves. A traceback is a bug: please report it.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | done, except for what the output names |
| 2 | refused, or stopped by something that you can fix |
| 130, 143, 129 | stopped by Ctrl-C, by SIGTERM, by a closed terminal; the same command resumes the work |
| 141 | the reader of the output has closed it |
"""


def to_markdown() -> str:
    """The whole page."""
    lines = [INTRODUCTION.rstrip("\n")]
    for heading, situations in TABLE.items():
        if not situations:
            continue
        lines += ["", f"## {heading}", "", "| situation | message | afterwards |", "|---|---|---|"]
        lines += [row for situation in situations for row in _rows(situation)]
    return "\n".join(lines) + "\n"


def _rows(situation: Situation) -> Iterator[str]:
    left = ", ".join(f"`{pattern}`" for pattern in situation.leaves)
    afterwards = f"status {situation.status}; {f'leaves {left}' if left else 'nothing written'}"
    if situation.remedy:
        afterwards += f". {situation.remedy}"
    message = f"bonafide {situation.command.split()[0]}: {situation.line}".replace("{here}", HERE)
    what = f"{situation.what}: `bonafide {situation.command.replace('{here}', HERE)}`"
    yield f"| {_cell(what)} | `{_cell(message)}` | {_cell(afterwards)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(to_markdown(), encoding="utf-8")
