"""The `bonafide` command: every module of this folder that defines `main` is a subcommand."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import did_you_mean
from pipeline.streams import run_with_safe_streams

PIPELINE_ORDER = ("corpora", "ingest", "train", "score", "evaluate")
"""Commands in the order in which a user needs them; the others follow alphabetically."""


def main() -> int:
    """Run a subcommand; returns the exit status."""
    argv = sys.argv[1:]
    if argv and argv[0] in commands():
        return run_command(argv[0], argv[1:])
    return run_with_safe_streams("bonafide", lambda: print_usage(argv))


def print_usage(argv: Sequence[str]) -> int:
    """Print the commands, or name the unknown one; returns the exit status."""
    if argv and argv[0] not in ("-h", "--help"):
        print(f"bonafide: unknown command {argv[0]!r}{did_you_mean(argv[0], commands())}", file=sys.stderr)
        return 2
    print(_usage())
    return 0 if argv else 2


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run one subcommand with the arguments that follow it; returns the exit status."""
    from pipeline.config import run

    return run(importlib.import_module(f"jobs.{name}").main, argv)


def commands() -> dict[str, str]:
    """Each command with its summary, the first line of its module docstring; imports none of them."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(path.read_bytes())
        if any(
            isinstance(statement, ast.FunctionDef) and statement.name == "main" for statement in module.body
        ):
            summaries[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return {name: summaries.pop(name) for name in PIPELINE_ORDER} | summaries


def _usage() -> str:
    summaries = commands()
    width = max(map(len, summaries))
    return "\n".join(
        [
            "usage: bonafide COMMAND [FLAGS]",
            "",
            "Post-train self-supervised speech models to tell bona fide speech from spoofed speech.",
            "",
            *(f"  {name:<{width}}  {summary}" for name, summary in summaries.items()),
            "",
            "Flags of a command: bonafide COMMAND --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
