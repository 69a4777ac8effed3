"""The names of everything that a STORE holds on disk; no other module spells them.

    STORE/
      snapshots/000001.json             the exact list of shards that readers trust; numbered, never overwritten
      catalog/CORPUS/DIGEST.parquet     one row for everything found in a corpus; row group i holds the rows of shard i
      shards/CORPUS/SHARD.tar           WebDataset: UID.flac and UID.json for each utterance
      index/CORPUS/SHARD.parquet        one row per utterance of the tar; written last, so it marks a finished shard
      rejects/CORPUS/SHARD.parquet      utterances that could not be written; only if there are any
      regions/CORPUS/DIGEST.parquet     labelled parts of the utterances of a corpus; only if its manifest names them
      duplicates/DIGEST.parquet         utterances of a snapshot that have identical audio; only if there are any
      configs/ingest-000001.toml        the config of the ingest that committed snapshot 000001
      attempts/CORPUS/WORK              how many workers have started a piece of work; deleted when it ends
      running/PROCESS/lease/            an ingest or a garbage collection that is running; deleted when it ends

SHARD is CORPUS-DIGEST; every DIGEST is 16 hex digits that depend on content alone.
"""

from __future__ import annotations

from pipeline.storage import FileInfo, Folder

_SNAPSHOTS = "snapshots"
_CATALOGS = "catalog"
_SHARDS = "shards"
_INDEXES = "index"
_REJECTS = "rejects"
_REGIONS = "regions"
_DUPLICATES = "duplicates"
_CONFIGS = "configs"
_ATTEMPTS = "attempts"
_RUNNING = "running"

RUNNING_COLLECTION = f"{_RUNNING}/gc"
"""Folder of the lease of a garbage collection."""

SWEPT_FOLDERS = (_SHARDS, _INDEXES, _REJECTS, _CATALOGS, _REGIONS, _DUPLICATES, _ATTEMPTS)
"""Folders in which garbage collection may delete files that no snapshot references."""

KEPT_FOLDERS = (_SNAPSHOTS, _CONFIGS, _RUNNING)
"""Folders in which it may delete only what a killed writer has left."""

REBUILD_HINT = "`bonafide verify` finds all such shards and says how to rebuild them"
"""End of the message about a missing or damaged shard."""


def snapshot_name(snapshot: str) -> str:
    """Path of a snapshot in the store."""
    return f"{_SNAPSHOTS}/{snapshot}.json"


def catalog_name(corpus: str, digest: str) -> str:
    """Path of a catalog in the store."""
    return f"{_CATALOGS}/{corpus}/{digest}.parquet"


def tar_name(corpus: str, shard: str) -> str:
    """Path of the tar of a shard in the store."""
    return f"{_SHARDS}/{corpus}/{shard}.tar"


def index_name(corpus: str, shard: str) -> str:
    """Path of the index of a shard in the store."""
    return f"{_INDEXES}/{corpus}/{shard}.parquet"


def rejects_name(corpus: str, shard: str) -> str:
    """Path of the rejects of a shard in the store; a shard without rejects has no such file."""
    return f"{_REJECTS}/{corpus}/{shard}.parquet"


def regions_name(corpus: str, digest: str) -> str:
    """Path of the regions of a corpus in the store."""
    return f"{_REGIONS}/{corpus}/{digest}.parquet"


def duplicates_name(digest: str) -> str:
    """Path of a table of duplicates in the store."""
    return f"{_DUPLICATES}/{digest}.parquet"


def config_name(snapshot: str) -> str:
    """Path, in the store, of the config of the ingest that committed a snapshot."""
    return f"{_CONFIGS}/ingest-{snapshot}.toml"


def attempt_name(corpus: str, work: str) -> str:
    """Path, in the store, of the marker that counts the workers which started a piece of work."""
    return f"{_ATTEMPTS}/{corpus}/{work}"


def running_ingest_name(ingest: str) -> str:
    """Folder, in the store, of the lease of a running ingest."""
    return f"{_RUNNING}/ingest-{ingest}"


def running_ingests(store: Folder) -> list[str]:
    """Folders, in the store, of the leases of ingests that are running or were killed."""
    if not store.exists(_RUNNING):
        return []
    folders = {"/".join(info.name.split("/")[:2]) for info in store.find(_RUNNING)}
    return sorted(folders - {RUNNING_COLLECTION})


def snapshots(store: Folder) -> list[str]:
    """Names of the snapshots of a store, oldest first."""
    return _stems(store, _SNAPSHOTS, ".json")


def catalogs(store: Folder, corpus: str) -> list[str]:
    """Paths of all catalogs of a corpus in the store, those of interrupted ingests included, oldest first."""
    infos = _finished(store, f"{_CATALOGS}/{corpus}", ".parquet")
    return [info.name for info in sorted(infos, key=lambda info: (info.modified, info.name))]


def finished_shards(store: Folder, corpus: str) -> set[str]:
    """Names of the finished shards of a corpus: those that have an index."""
    return set(_stems(store, f"{_INDEXES}/{corpus}", ".parquet"))


def _stems(store: Folder, folder: str, suffix: str) -> list[str]:
    """Sorted names, without folder and suffix, of the files with a suffix."""
    infos = _finished(store, folder, suffix)
    return sorted(info.name.rpartition("/")[2].removesuffix(suffix) for info in infos)


def _finished(store: Folder, folder: str, suffix: str) -> list[FileInfo]:
    """The files with a suffix, which those that are still being written lack; none if there is no such folder."""
    if not store.exists(folder):
        return []
    return [info for info in store.find(folder) if info.name.endswith(suffix)]
