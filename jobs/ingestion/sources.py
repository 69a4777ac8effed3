"""Where an ingest finds its corpora: below the root by their manifests, or in a protocol CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import Manifest, choose_manifests, load_manifests
from pipeline.data.corpora.protocol_csv import check_protocol, corpus_name, describe_protocol, read_protocol
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.corpora.utterance import ARTIFACTS
from pipeline.data.store import catalog as catalogs
from pipeline.errors import InputError
from pipeline.storage import Folder

if TYPE_CHECKING:
    from jobs.ingest import IngestConfig


@dataclass(frozen=True)
class Source:
    """A corpus, where it lies, and what is wanted of it."""

    manifest: Manifest
    root: Folder
    protocol: str = ""
    """The CSV that describes it, if no manifest does."""
    recipe: Recipe = field(default_factory=Recipe)

    def rows(self) -> Iterator[catalogs.Row]:
        """Everything found, not probed yet."""
        if self.protocol:
            found = read_protocol(self.manifest, self.root, self.protocol)
        else:
            found = read_files(self.manifest, self.root)
        return catalogs.rows(found, self.manifest.name, self.recipe)


def find_sources(config: IngestConfig) -> dict[str, Source]:
    """The corpora to ingest and their folders.

    Raises:
        InputError: an unknown corpus or recipe, a folder that is not there, a protocol of another form.
    """
    recipe = load_recipe(config.recipe) if config.recipe else Recipe()
    root = Folder(config.root)
    if config.protocol:
        return {source.manifest.name: source for source in [protocol_source(config, root, recipe)]}
    manifests = load_manifests()
    of_recipe = [name for name in recipe.corpora if name in manifests]
    if recipe.corpora and not of_recipe:
        raise InputError(f"recipe {recipe.name}: there is a manifest of none of its corpora")
    named = [*config.corpora, *config.roots.names]
    sources, absent = {}, []
    for name, manifest in choose_manifests([*(config.corpora or of_recipe), *config.roots.names]).items():
        elsewhere = config.roots.get(name)
        place = Folder(elsewhere) if elsewhere else root.folder(manifest.folder)
        if place.exists():
            rules = recipe if recipe.covers(name, manifest.role) else Recipe()
            sources[name] = Source(manifest, place, recipe=rules)
        elif name in named:
            raise InputError(
                f"{name}: no folder {place.uri}; put the corpus there, or say where it lies: --roots {name}=PATH"
            )
        else:
            absent.append(manifest.folder)
    if not sources:
        what = "no corpus there" if root.exists() else "no such folder"
        raise InputError(
            f"{root.uri}: {what}; expected a folder named like one of: {', '.join(sorted(set(absent)))}"
        )
    if absent and recipe.corpora:
        print(f"recipe {recipe.name}: {root.uri} has no {', '.join(dict.fromkeys(absent))}", flush=True)
    return sources


def protocol_source(config: IngestConfig, root: Folder, recipe: Recipe) -> Source:
    """The one corpus that a protocol CSV describes.

    Raises:
        InputError: no such file, other columns, a name that is taken, an unknown artifact family.
    """
    if config.corpora or config.roots:
        raise InputError("--protocol describes a corpus of its own; leave out --corpora and --roots")
    if config.artifact not in ARTIFACTS:
        raise InputError(f"--artifact {config.artifact!r} is none of {', '.join(ARTIFACTS)}")
    name = config.name or corpus_name(config.protocol)
    if name in load_manifests():
        raise InputError(
            f"there is a manifest of {name!r}, which needs no protocol; or choose another --name"
        )
    check_protocol(config.protocol)
    manifest = describe_protocol(name, role=config.role, artifact=config.artifact)
    rules = recipe if recipe.covers(name, config.role) else Recipe()
    return Source(manifest, root, config.protocol, rules)
