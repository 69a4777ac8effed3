"""Recipes: which utterances train, which validate, how often they are drawn, and which artifacts count as spoof.

A recipe is applied when shards are read, so one store can serve several recipes; the labels in the shards do not
change. `manifests/README.md` describes the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.corpora.domains import DomainRule, read_domain_rule
from pipeline.data.corpora.manifest import MANIFESTS, Manifest
from pipeline.data.corpora.toml import TomlTable, load_table
from pipeline.data.corpora.utterance import ARTIFACTS, LABELS, SPLITS
from pipeline.errors import InputError, did_you_mean
from pipeline.fields import Reader, local_path

RECIPES = MANIFESTS / "recipes"

NO_SPLIT = "none"
"""How rules name the split of utterances that have none."""

ANY_CORPUS = "*"

EXCLUDED = "excluded-"
"""Prefix of the reason, followed by the split, of excluded utterances in catalog and snapshot. They are counted
apart from the rejects."""

Use = Literal["train", "validation", "excluded"]
USES: tuple[Use, ...] = ("train", "validation", "excluded")


@dataclass(frozen=True)
class Recipe:
    """A training mix: the use of every utterance of a store.

    The default is that of AntiDeepfake (arXiv 2506.21090): train on all but the official validation splits.
    """

    name: str = ""
    corpora: tuple[str, ...] = ()
    """The corpora of the mix; every training corpus of the store if empty."""
    train: tuple[str, ...] = ()
    """Rules `corpus`, `corpus/split` or `*/split` for utterances to train on. Utterances without a rule train, too."""
    validation: tuple[str, ...] = (f"{ANY_CORPUS}/validation",)
    """Rules for utterances that are held out to choose the best checkpoint."""
    excluded: tuple[str, ...] = ()
    """Rules for utterances that are not used."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Draws per epoch of each utterance of a label, `corpus` or `corpus/label`, as in `BatchConfig.weights`."""
    bonafide_artifacts: tuple[str, ...] = ()
    """Artifact families that count as bona fide; all others count as spoof."""
    domains: DomainRule = field(default_factory=DomainRule)
    """What the domains of the training utterances are, and how they are balanced."""

    def use(self, corpus: str, split: str | None) -> Use:
        """Return the use of the utterances of a corpus and split; the most specific rule counts."""
        split = split or NO_SPLIT
        for rule in (f"{corpus}/{split}", corpus, f"{ANY_CORPUS}/{split}"):
            for use in USES:
                if rule in getattr(self, use):
                    return use
        return "train"

    def covers(self, corpus: str, role: str) -> bool:
        """Whether the recipe applies to a corpus of this role."""
        return corpus in self.corpora if self.corpora else role == "train"

    def weights_of(self, corpora: Collection[str]) -> dict[str, float]:
        """Return the weights of labels and of the named corpora."""
        return {
            name: weight
            for name, weight in self.weights.items()
            if name in LABELS or name.partition("/")[0] in corpora
        }

    def mask(self, table: pa.Table, use: Use) -> NDArray[np.bool_]:
        """Return [N] whether each row of a table (columns corpus and split) has the given use."""
        corpora, splits = pc.unique(table["corpus"]), pc.unique(table["split"])
        is_chosen = np.array(
            [
                [self.use(corpus, split) == use for split in splits.to_pylist()]
                for corpus in corpora.to_pylist()
            ],
            dtype=bool,
        ).reshape(len(corpora), len(splits))
        mask = is_chosen[
            pc.index_in(table["corpus"], corpora).to_numpy(), pc.index_in(table["split"], splits).to_numpy()
        ]
        return cast("NDArray[np.bool_]", mask)

    def relabel(self, table: pa.Table) -> pa.Table:
        """Label the rows of `bonafide_artifacts` as bona fide, without artifact and attack."""
        if not self.bonafide_artifacts:
            return table
        is_bonafide = pc.is_in(table["artifact"], pa.array(self.bonafide_artifacts))
        for name, value in (("label", "bonafide"), ("attack", None), ("artifact", None)):
            if name in table.column_names:
                column = pc.if_else(is_bonafide, pa.scalar(value, pa.string()), table[name])
                table = table.set_column(table.column_names.index(name), name, column)
        return table


def load_recipe(name: str) -> Recipe:
    """Load a recipe by its name in `manifests/recipes`, or by the path of a TOML file.

    Raises:
        InputError: the recipe does not exist or is malformed; the message names the file and the key.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{name}: no such recipe file")
    else:
        path = RECIPES / f"{name}.toml"
        if not path.is_file():
            raise InputError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}")
    table = load_table(path)
    recipe = Recipe(
        name=table.string("name"),
        corpora=table.strings("corpora", ()),
        train=table.strings("train", ()),
        validation=table.strings("validation", Recipe.validation),
        excluded=table.strings("excluded", ()),
        weights=_weights(table.table("weights")),
        bonafide_artifacts=table.strings("bonafide_artifacts", ()),
        domains=read_domain_rule(table.table("domains")),
    )
    table.finish()
    _check(recipe, table)
    return recipe


def _recipe_name(text: str) -> str:
    """Read the name of a recipe, or the path of its file, which becomes absolute; the recipe must be well-formed."""
    name = local_path(text) if text.endswith(".toml") else text
    load_recipe(name)
    return name


RecipeName = Annotated[str, Reader(_recipe_name, "a name or a TOML file")]
"""Type of a flag: a recipe that can be loaded."""


def recipe_names() -> list[str]:
    """Return the names of the recipes in `manifests/recipes`."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _weights(table: TomlTable | None) -> dict[str, float]:
    return {name: table.number(name) for name in list(table.values)} if table else {}


def _check(recipe: Recipe, table: TomlTable) -> None:
    """Check what involves several keys: the rules against the corpora, and weights against labels and corpora."""
    if recipe.name != table.path.stem:
        raise table.error("name", f"{recipe.name!r}, but the file is {table.path.name}")
    for corpus in recipe.corpora:
        if recipe.corpora.count(corpus) > 1:
            raise table.error("corpora", f"{corpus!r} is listed twice")
    seen: dict[str, str] = {}
    for use in USES:
        for rule in getattr(recipe, use):
            if rule in seen:
                raise table.error(use, f"{rule!r} is already in {seen[rule]}")
            seen[rule] = use
            _check_rule(recipe, table, use, rule)
    for name in recipe.weights:
        corpus, _, label = name.partition("/")
        if name not in LABELS and (label not in ("", *LABELS) or not _has_corpus(recipe, corpus)):
            raise table.error(f"weights.{name}", "is not a label, a corpus of this recipe, or corpus/label")
    for artifact in recipe.bonafide_artifacts:
        if artifact not in ARTIFACTS:
            raise table.error("bonafide_artifacts", f"{artifact!r} is not one of {', '.join(ARTIFACTS)}")


def _check_rule(recipe: Recipe, table: TomlTable, key: str, rule: str) -> None:
    corpus, slash, split = rule.partition("/")
    if corpus == ANY_CORPUS:
        if not slash:
            raise table.error(key, f"{rule!r} is not a rule; use corpus, corpus/split or */split")
    elif not _has_corpus(recipe, corpus):
        raise table.error(key, f"{rule!r}: the recipe has no corpus {corpus!r}")
    if slash and split not in (*SPLITS, NO_SPLIT):
        raise table.error(key, f"{rule!r}: {split!r} is not one of {', '.join((*SPLITS, NO_SPLIT))}")


def _has_corpus(recipe: Recipe, corpus: str) -> bool:
    return bool(corpus) and (corpus in recipe.corpora or not recipe.corpora)


@dataclass(frozen=True)
class Leakage:
    """Sources of bona fide speech that are both trained on and validated with."""

    sources: tuple[str, ...]
    """Sources on both sides."""
    unknown: tuple[str, ...]
    """Corpora whose sources are unknown."""


def find_leakage(
    recipe: Recipe, parts: Iterable[tuple[str, str | None]], manifests: Mapping[str, Manifest]
) -> Leakage:
    """Compare the sources of the training data with those of the validation data.

    Args:
        recipe: the use of each part.
        parts: the corpora and splits that exist.
        manifests: manifests by corpus; the sources of a corpus without a manifest are unknown.
    """
    sources: dict[Use, set[str]] = {use: set() for use in USES}
    unknown: set[str] = set()
    for corpus, split in parts:
        use = recipe.use(corpus, split)
        corpus_sources = manifests[corpus].sources if corpus in manifests else ()
        sources[use].update(corpus_sources)
        if not corpus_sources and use != "excluded":
            unknown.add(corpus)
    return Leakage(tuple(sorted(sources["train"] & sources["validation"])), tuple(sorted(unknown)))
