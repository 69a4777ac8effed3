"""Find the corpora of an ingest: below the root by their manifests, or in a protocol CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from jobs.ingestion.config import IngestConfig
from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import Manifest, choose_manifests, load_manifests
from pipeline.data.corpora.protocol_csv import check_protocol, corpus_name, describe_protocol, read_protocol
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.corpora.utterance import Entry, NotAudio
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.catalog import CatalogRow
from pipeline.errors import InputError
from pipeline.storage import Folder


@dataclass(frozen=True)
class Source:
    """A corpus to ingest."""

    manifest: Manifest
    root: Folder
    """Folder of the corpus."""
    protocol: str = ""
    """CSV that describes the corpus, if it has no manifest of its own."""
    recipe: Recipe = field(default_factory=Recipe)
    """Decides which splits are excluded."""

    def items(self) -> Iterator[Entry]:
        """Everything in the folder, with its listed file.

        Raises:
            InputError: the protocol of the corpus is missing or malformed.
        """
        if self.protocol:
            return read_protocol(self.manifest, self.root, self.protocol)
        return read_files(self.manifest, self.root)

    def rows(self, not_audio: Counter[str]) -> Iterator[CatalogRow]:
        """A catalog row, without header, for every utterance and problem.

        Args:
            not_audio: counts the files that are left out by rule, by kind.

        Raises:
            InputError: the protocol of the corpus is missing or malformed.
        """
        items = _without_other_files(self.items(), not_audio)
        return catalogs.rows(items, self.manifest.name, self.recipe)


def _without_other_files(items: Iterable[Entry], not_audio: Counter[str]) -> Iterator[Entry]:
    """Pass on utterances and problems; count the files that are no audio."""
    for file, item in items:
        if isinstance(item, NotAudio):
            not_audio[item.kind] += 1
        else:
            yield file, item


def find_sources(config: IngestConfig) -> dict[str, Source]:
    """The corpora to ingest, by name.

    Raises:
        InputError: an unknown corpus or recipe, a missing folder, a malformed protocol, or a flag without effect.
    """
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    sources = _find_sources(config, recipe)
    names = ", ".join(sources)
    if config.chunk_s and not any(source.manifest.chunks for source in sources.values()):
        raise InputError(f"--chunk-s {config.chunk_s:g}: none of {names} is cut into chunks; leave it out")
    if config.recipe and not any(recipe.covers(name, each.manifest.role) for name, each in sources.items()):
        raise InputError(f"--recipe {recipe.name} has no {names}; leave it out, or name its corpora")
    return sources


def _find_sources(config: IngestConfig, recipe: Recipe) -> dict[str, Source]:
    root = Folder(config.root)
    if config.protocol:
        source = protocol_source(config, root, recipe)
        return {source.manifest.name: source}
    manifests = load_manifests()
    recipe_corpora = [name for name in recipe.corpora if name in manifests]
    if recipe.corpora and not recipe_corpora:
        raise InputError(f"recipe {recipe.name}: none of its corpora has a manifest")
    required = [*config.corpora, *config.roots.names]
    candidates = choose_manifests([*(config.corpora or recipe_corpora), *config.roots.names])
    sources, absent = {}, []
    for name, manifest in candidates.items():
        path = config.roots.get(name)
        folder = Folder(path) if path else root.folder(manifest.folder)
        if folder.exists():
            rules = recipe if recipe.covers(name, manifest.role) else Recipe()
            sources[name] = Source(manifest, folder, recipe=rules)
        elif name in required:
            raise InputError(
                f"{name}: no folder {folder.uri}; create it, or name another one with --roots {name}=PATH"
            )
        else:
            absent.append(manifest.folder)
    if not sources:
        problem = "no corpus in this folder" if root.exists() else "no such folder"
        raise InputError(
            f"{root.uri}: {problem}; expected a folder named like one of: {', '.join(sorted(set(absent)))}"
        )
    if absent and recipe.corpora:
        print(f"recipe {recipe.name}: {root.uri} has no {', '.join(dict.fromkeys(absent))}", flush=True)
    return sources


def protocol_source(config: IngestConfig, root: Folder, recipe: Recipe) -> Source:
    """The corpus that a protocol CSV describes.

    Raises:
        InputError: the CSV is missing or malformed, or a manifest has the name of the corpus.
    """
    name = config.name or corpus_name(config.protocol)
    if name in load_manifests():
        raise InputError(
            f"there is a manifest of {name!r}: ingest it without --protocol, or choose another --name"
        )
    check_protocol(config.protocol)
    manifest = describe_protocol(name, role=config.role, artifact=config.artifact)
    rules = recipe if recipe.covers(name, config.role) else Recipe()
    return Source(manifest, root, config.protocol, rules)
