"""The configuration of `bonafide ingest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import Names, Pairs
from pipeline.data.corpora.utterance import ARTIFACTS
from pipeline.data.store.losses import MAX_LOSS
from pipeline.errors import InputError


@dataclass(frozen=True)
class IngestConfig:
    """What to ingest, from where, to where.

    Raises:
        InputError: a value out of range, or flags that exclude each other.
    """

    root: str
    """Folder or s3:// URI with one folder per corpus, named as in the manifests."""
    store: str
    """Folder or s3:// URI for catalogs, shards and snapshots."""
    corpora: Names = Names()
    """Corpora to ingest; by default every corpus that has a folder. Other corpora of the store stay unchanged."""
    roots: Pairs = Pairs()
    """Folders of corpora that are stored outside the root: NAME=PATH."""
    recipe: str = ""
    """Name or TOML file of a recipe: ingest its corpora, without the splits that it excludes."""
    protocol: str = ""
    """AntiDeepfake protocol CSV, local or s3://: ingest the files it lists below the root, as one corpus."""
    name: str = ""
    """Name for the corpus of the protocol; by default the name of the CSV."""
    role: Literal["train", "evaluation"] = "train"
    """What the corpus of the protocol is used for."""
    artifact: str = "mixed"
    """Artifact family of the spoofed utterances of the protocol, which has no column for it."""
    shard_mib: float = 256.0
    """Approximate size of a shard, MiB."""
    chunk_s: float = 0.0
    """Length of a chunk, seconds, for corpora that are cut into chunks (Deepfake-Eval-2024). 0: the length in the
    manifest."""
    resampler: Literal["soxr_hq", "torchaudio"] = "soxr_hq"
    """How audio is resampled to 16 kHz: soxr_hq, or torchaudio for parity with the released checkpoints."""
    max_loss: float = MAX_LOSS
    """Largest share of its utterances that a label, attack, language or tool may lose before it is named in a warning
    and the exit status is 1; losses of one or two utterances are named only if nothing is left, or with 0."""
    tracking_uri: str = ""
    """MLflow tracking server or database; without one, nothing is tracked."""
    experiment: str = "bonafide"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        if self.target_bytes < 1:
            raise InputError(f"--shard-mib {self.shard_mib}: give a positive size in MiB")
        if not self.chunk_s >= 0:
            raise InputError(f"--chunk-s {self.chunk_s}: give a positive length, or 0 for the manifest's")
        if not 0 <= self.max_loss <= 1:
            raise InputError(f"--max-loss {self.max_loss}: give a share between 0 and 1")
        if self.artifact not in ARTIFACTS:
            raise InputError(f"--artifact {self.artifact!r}: choose one of {', '.join(ARTIFACTS)}")
        if self.protocol and (self.corpora or self.roots):
            raise InputError("--protocol describes one corpus; leave out --corpora and --roots")
        if self.name and not self.protocol:
            raise InputError("--name is for the corpus of a protocol: give --protocol FILE")

    @property
    def target_bytes(self) -> int:
        """Approximate size of a shard, bytes."""
        return int(self.shard_mib * 2**20)
