"""The configuration of `bonafide ingest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline import tracking
from pipeline.data.audio.waveform import ChunkSeconds
from pipeline.data.corpora.recipe import RecipeName
from pipeline.data.corpora.utterance import ARTIFACTS
from pipeline.data.store.losses import MAX_LOSS
from pipeline.errors import InputError
from pipeline.fields import Location, NamedLocations, Names, Pairs, Range, Share, one_of


@dataclass(frozen=True)
class IngestConfig:
    """What to ingest, from where, to where.

    Raises:
        InputError: flags that exclude each other, or that would have no effect.
    """

    root: Location
    """Folder or s3:// URI with one folder per corpus, named as in the manifests."""
    store: Location
    """Folder or s3:// URI for catalogs, shards and snapshots."""
    corpora: Names = Names()
    """Corpora to ingest; by default every corpus that has a folder. Other corpora of the store stay unchanged."""
    roots: NamedLocations = Pairs()
    """Folders of corpora that are stored outside the root: NAME=PATH."""
    recipe: RecipeName = ""
    """Name or TOML file of a recipe: ingest its corpora, without the splits that it excludes."""
    protocol: Location = ""
    """AntiDeepfake protocol CSV, local or s3://: ingest the files it lists below the root, as one corpus."""
    name: str = ""
    """Name for the corpus of the protocol; by default the name of the CSV."""
    role: Literal["train", "evaluation"] = "train"
    """What the corpus of the protocol is used for."""
    artifact: Annotated[str, one_of("artifact", ARTIFACTS)] = "mixed"
    """Artifact family of the spoofed utterances of the protocol, which has no column for it."""
    shard_mib: Annotated[float, Range(0.01, 65_536)] = 256.0
    """Approximate size of a shard, MiB."""
    chunk_s: ChunkSeconds = 0.0
    """Length of a chunk, seconds, for corpora that are cut into chunks (Deepfake-Eval-2024). 0: the length in the
    manifest."""
    resampler: Literal["soxr_hq", "torchaudio"] = "soxr_hq"
    """How audio is resampled to 16 kHz: soxr_hq, or torchaudio for parity with the released checkpoints."""
    max_loss: Share = MAX_LOSS
    """Largest share of its utterances that a label, attack, language or tool may lose before it is named in a warning
    and the exit status is 1; losses of one or two utterances are named only if nothing is left, or with 0."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow tracking server or database; without one, nothing is tracked."""
    experiment: str = tracking.INGEST_EXPERIMENT
    """MLflow experiment; by default not that of the trainings, whose table shows one row for each training."""

    def __post_init__(self) -> None:
        tracking.check_flags(self.tracking_uri, self.experiment)
        if self.store == self.root:
            raise InputError(f"--root and --store are both {self.root}; give the store a folder of its own")
        if self.protocol and (self.corpora or self.roots):
            raise InputError("--protocol describes one corpus; leave out --corpora and --roots")
        for flag, is_given in {
            "--name": self.name,
            "--role": self.role != IngestConfig.role,
            "--artifact": self.artifact != IngestConfig.artifact,
        }.items():
            if is_given and not self.protocol:
                raise InputError(f"{flag} is for the corpus of a protocol: give --protocol FILE")

    @property
    def target_bytes(self) -> int:
        """Approximate size of a shard, bytes."""
        return int(self.shard_mib * 2**20)
