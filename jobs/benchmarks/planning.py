"""Measure how long one process takes to plan a whole corpus, and how much memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.benchmarks.table import Measured, peak_mib, print_now, timed

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.data.store.catalog import CatalogRow
    from pipeline.data.store.repeated import UniqueRows

INVENTED_ROWS = 10_000
"""Rows that are invented at a time."""


def measure_planning(num_rows: int, folder: Path) -> Iterator[Measured]:
    """Plan a corpus, recognise its files in a second listing, and plan it again; each in a new process."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        for title, stage in PLANNING_STAGES.items():
            print_now(f"{title} {num_rows:,}")
            program = "import sys; from jobs.benchmarks import planning; planning.print_stage(*sys.argv[1:])"
            argv = [sys.executable, "-c", program, stage.__name__, str(num_rows), store]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)  # noqa: S603
            seconds, mib = map(float, done.stdout.split())
            each = f"{seconds / num_rows * 1e6:.1f} µs each"
            yield Measured(f"{title} {num_rows:,}", f"{seconds:.1f} s, {mib:.0f} MiB", each)


def print_stage(stage: str, num_rows: str, store: str) -> None:
    """Run a stage of `PLANNING_STAGES`; prints its seconds, and the peak memory of this process in MiB."""
    functions = {function.__name__: function for function in PLANNING_STAGES.values()}
    print(functions[stage](int(num_rows), store), peak_mib())


def plan_once(num_rows: int, store: str) -> float:
    """Collect invented utterances, plan their shards and write their catalog; returns seconds."""
    from pipeline.data.store.repeated import UniqueRows

    rows = UniqueRows()
    seconds = 0.0
    for first in range(0, num_rows, INVENTED_ROWS):
        part = invented_rows(first, min(INVENTED_ROWS, num_rows - first))
        seconds += timed(partial(rows.add, part))
    return seconds + timed(partial(write_plan, rows, (), store))


def find_known_files(num_rows: int, store: str) -> float:
    """Look up in the catalog every file of a listing in which nothing has changed; returns seconds."""
    from pipeline.data.store import probing
    from pipeline.data.store.known import KnownFiles
    from pipeline.storage import Folder

    started = time.perf_counter()
    known = KnownFiles(Folder(store), only_catalog(store))
    seconds = time.perf_counter() - started
    for first in range(0, num_rows, INVENTED_ROWS):
        listed = listed_rows(first, min(INVENTED_ROWS, num_rows - first))
        started = time.perf_counter()
        filled = known.fill(listed)
        seconds += time.perf_counter() - started
        assert all(map(probing.is_probed, filled)), "every file is known"
    return seconds


def plan_again(num_rows: int, store: str) -> float:
    """Plan the same utterances when they already have shards; returns seconds."""
    import pyarrow.compute as pc

    from pipeline import tables
    from pipeline.data.store.catalog import CATALOG
    from pipeline.data.store.repeated import UniqueRows
    from pipeline.storage import Folder

    rows = UniqueRows()
    seconds = 0.0
    shards: list[str] = []
    catalog = only_catalog(store)
    with tables.open_groups(Folder(store), catalog) as file:
        for group in tables.iter_groups(file, CATALOG.names):
            shards += pc.unique(group["shard"]).to_pylist()
            seconds += timed(partial(rows.add, group.cast(CATALOG)))
    assert rows.num_rows == num_rows
    seconds += timed(partial(write_plan, rows, shards, store))
    assert only_catalog(store) == catalog, "nothing has changed"
    return seconds


PLANNING_STAGES: dict[str, Callable[[int, str], float]] = {
    "plan of": plan_once,
    "known files among": find_known_files,
    "second plan of": plan_again,
}
"""What one process has to do for a whole corpus, by title; the later stages use the catalog of the first."""


def write_plan(rows: UniqueRows, previous_shards: Sequence[str], store: str) -> None:
    """Plan shards of 256 MiB, and write the catalog, as `bonafide ingest` does."""
    from jobs.ingestion.building import DISTINCT_COLUMNS
    from pipeline import tables
    from pipeline.data.store.catalog import CATALOG
    from pipeline.data.store.plan import plan_shards
    from pipeline.storage import Folder

    planned = plan_shards(rows.parts(), previous_shards, build_settings="benchmark", target_bytes=256 << 20)
    tables.commit_groups(
        Folder(store),
        "{}.parquet".format,
        CATALOG,
        (members for _, members in planned),
        distinct_columns=DISTINCT_COLUMNS,
        statistics_of=["problem"],
    )


def only_catalog(store: str) -> str:
    """The name of the one catalog that the first stage of planning has written."""
    (path,) = Path(store).glob("*.parquet")
    return path.name


def invented_rows(first: int, num_rows: int) -> pa.Table:
    """Probed catalog rows like those of a large corpus of read speech, in the order of their paths."""
    import numpy as np
    import pyarrow as pa

    from pipeline.data.corpora.utterance import utterance_uid
    from pipeline.data.store.catalog import CATALOG

    listed: Any = listed_rows(first, num_rows)
    names = [row["path"].rpartition("/")[2].removesuffix(".flac") for row in listed]
    uids = [utterance_uid("mls", row["path"]) for row in listed]
    seconds = np.array([row["size"] for row in listed]) / 16_000
    values: dict[str, Any] = {
        "uid": uids,
        "id": [f"MLS-EN-{name}" for name in names],
        "label": ["bonafide"] * num_rows,
        "speaker": [name[:8] for name in names],
        "language": ["en"] * num_rows,
        "split": ["train"] * num_rows,
        "fingerprint": [uid[::-1] for uid in uids],
        "container": ["flac"] * num_rows,
        "codec": ["flac"] * num_rows,
        "encoding": ["PCM_S"] * num_rows,
        "sample_rate": np.full(num_rows, 16_000),
        "num_channels": np.ones(num_rows, np.int64),
        "num_samples": np.rint(seconds * 16_000),
        "file_seconds": seconds,
        "bit_depth": np.full(num_rows, 16),
        "bitrate": np.full(num_rows, 128_000),
        "seconds": seconds,
        **{name: [row[name] for row in listed] for name in ("corpus", "path", "size", "version")},
    }
    columns = [
        pa.array(values[field.name], field.type) if field.name in values else pa.nulls(num_rows, field.type)
        for field in CATALOG
    ]
    return pa.table(columns, schema=CATALOG)


def listed_rows(first: int, num_rows: int) -> list[CatalogRow]:
    """The rows of `invented_rows` before their files are probed."""
    import numpy as np

    from pipeline.data.store.catalog import CATALOG

    empty = dict.fromkeys(CATALOG.names)
    names = [f"{number:012d}" for number in range(first, first + num_rows)]
    sizes = np.random.default_rng(first).integers(160_000, 320_000, num_rows).tolist()
    rows: Any = [
        {
            **empty,
            "corpus": "mls",
            "path": f"mls_english/train/audio/{name[:4]}/{name[4:8]}/{name}.flac",
            "size": size,
            "version": f"1700000000{name[3:]}",
        }
        for name, size in zip(names, sizes, strict=True)
    ]
    return cast("list[CatalogRow]", rows)
