"""The `bonafide` command: one subcommand per job."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "corpora": "the manifests, and what is found of them on disk",
    "ingest": "corpora on disk or S3 → catalog, shards, snapshot",
    "train": "a snapshot → a post-trained detector",
    "score": "evaluation corpora and a checkpoint → scores",
    "evaluate": "scores → EER table and report",
    "verify": "a store against its snapshot: bytes, audio, duplicates",
    "gc": "what no snapshot of a store names",
    "benchmark": "a job against the bare loop and its peers",
    "demo": "all of it, on small corpora made here",
}
"""Subcommand → what it does; each is the module `jobs.<name>`."""


def main() -> int:
    """Run a subcommand; returns the exit status."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(COMMANDS)}"
        print(f"bonafide: unknown command {name!r}{hint}", file=sys.stderr)
        return 2
    return run_command(name, words[1:])


def run_command(name: str, words: Sequence[str]) -> int:
    """Run one subcommand with the words that follow it; returns the exit status."""
    from pipeline.config import run

    return run(importlib.import_module(f"jobs.{name}").main, words)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bonafide COMMAND [FLAGS]",
            "",
            "Post-train self-supervised speech models to tell bona fide speech from spoofed speech.",
            "",
            *lines,
            "",
            "Flags of a command: bonafide COMMAND --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
