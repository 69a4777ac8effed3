"""Decide which corpora get into a snapshot: one that cannot be read does not end the ingest of others."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping

from jobs.ingestion.cataloging import CatalogedCorpus
from jobs.ingestion.sources import Source
from pipeline.data.store import layout
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder

MAX_TABLES = 3
"""Tables of rejects that a message names."""


def failed_listings(
    found: Mapping[str, CatalogedCorpus],
    sources: Mapping[str, Source],
    before: Snapshot | None,
    named: Collection[str],
) -> dict[str, str]:
    """The corpora that could not be listed, or in which nothing was found although there should be; each with a reason.

    Args:
        found: what was found in each corpus.
        sources: the corpora of the ingest.
        before: the latest snapshot of the store.
        named: corpora that the user named. Another one may be empty: it may share the folder of a corpus.

    Raises:
        InputError: the only corpus failed.
    """
    failures = {}
    for name, corpus in found.items():
        if corpus.listing.failure:
            failures[name] = corpus.listing.failure
        elif not corpus.rows.num_rows and (name in named or _num_written(before, name)):
            failures[name] = (
                f"{name}: nothing found in {sources[name].root.uri}; is it the folder of that corpus?"
            )
    if len(sources) == 1:
        for failure in failures.values():
            raise InputError(failure)
    return failures


def lost_corpora(corpora: Iterable[CorpusSnapshot], before: Snapshot | None) -> dict[str, str]:
    """The corpora that have no utterance left, but have some in the latest snapshot; each with a reason."""
    return {
        corpus.name: f"{corpus.name}: none of its {corpus.found} utterances could be written ({_reasons(corpus)})"
        for corpus in corpora
        if not corpus.written and _num_written(before, corpus.name)
    }


def nothing_written(corpora: Iterable[CorpusSnapshot], store: Folder) -> InputError:
    """Return the error for an ingest that has written no utterance: there is nothing to commit."""
    corpora = list(corpora)
    reasons = "; ".join(f"{corpus.name}: {_reasons(corpus)}" for corpus in corpora)
    tables = [table for corpus in corpora for table in _tables_of_problems(corpus)]
    more = f" and {len(tables) - MAX_TABLES} more" if len(tables) > MAX_TABLES else ""
    return InputError(
        f"nothing could be written, so no snapshot is committed ({reasons}); each file is listed with its reason "
        f"in {', '.join(map(store.location, tables[:MAX_TABLES]))}{more}"
    )


def print_failures(failures: Mapping[str, str], before: Snapshot | None) -> None:
    """Print one line for each corpus that failed, on standard error."""
    for name, failure in failures.items():
        reason = failure if failure.startswith(f"{name}: ") else f"{name}: {failure}"
        is_kept = before is not None and name in before.corpora
        fate = f"kept as in snapshot {before.name}" if before is not None and is_kept else "left out"
        print(f"bonafide ingest: {reason} [{fate}]", file=sys.stderr, flush=True)


def _num_written(snapshot: Snapshot | None, name: str) -> int:
    """Utterances of a corpus in a snapshot."""
    corpus = snapshot.corpora.get(name) if snapshot is not None else None
    return corpus.written if corpus is not None else 0


def _tables_of_problems(corpus: CorpusSnapshot) -> list[str]:
    """Paths of the tables in the store that list what was not written."""
    rejecting = [shard.name for shard in corpus.shards if shard.rejected]
    return [corpus.catalog, *(layout.rejects_name(corpus.name, shard) for shard in rejecting)]


def _reasons(corpus: CorpusSnapshot) -> str:
    counts = {**corpus.rejected, **corpus.excluded}
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
