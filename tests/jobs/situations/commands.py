"""Commands with a wrong flag or value: refused at once, with nothing written."""

from __future__ import annotations

from tests.jobs.situations.situation import Situation

SITUATIONS = [
    Situation(
        what="a misspelled flag",
        command="ingest --root data --stor store",
        line="unknown argument --stor; did you mean --store? (all flags: bonafide ingest --help)",
    ),
    Situation(
        what="a shard size that is not positive",
        command="ingest --root data --store store --shard-mib -1",
        line="--shard-mib -1.0: give a positive size in MiB",
    ),
]
