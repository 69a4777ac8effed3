"""Recipes: what of the corpora trains, what is held out to validate with, how often, and what counts as spoof.

A recipe is applied when shards are read, so several can train on one store; the labels in the shards stay what they
are. `manifests/README.md` describes the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.corpora.manifest import MANIFESTS, Manifest
from pipeline.data.corpora.toml import TomlTable, load_toml
from pipeline.data.corpora.utterance import ARTIFACTS, LABELS, SPLITS
from pipeline.errors import InputError

RECIPES = MANIFESTS / "recipes"

NO_SPLIT = "none"
"""How a rule spells the split of an utterance that has none."""

ANY_CORPUS = "*"

EXCLUDED = "excluded-"
"""What a recipe left out has this and its split as a reason in catalog and snapshot, and is no reject."""

Use = Literal["train", "validation", "excluded"]
USES: tuple[Use, ...] = ("train", "validation", "excluded")


@dataclass(frozen=True)
class Recipe:
    """What to do with the utterances of a store; without any rule as in the paper (arXiv 2506.21090)."""

    name: str = ""
    corpora: tuple[str, ...] = ()
    """What it speaks of; every training corpus of the store if it is empty."""
    train: tuple[str, ...] = ()
    """Rules, `corpus`, `corpus/split` or `*/split`. What no rule takes is trained on."""
    validation: tuple[str, ...] = (f"{ANY_CORPUS}/validation",)
    """Rules for what is held out to choose the best checkpoint by."""
    excluded: tuple[str, ...] = ()
    """Rules for what is used for neither."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """As those of `BatchConfig`."""
    bonafide_artifacts: tuple[str, ...] = ()
    """Families of artifacts whose utterances count as bona fide; all others count as spoof."""

    def use(self, corpus: str, split: str | None) -> Use:
        """What the utterances of a split of a corpus are for: the narrowest rule counts."""
        split = split or NO_SPLIT
        for rule in (f"{corpus}/{split}", corpus, f"{ANY_CORPUS}/{split}"):
            for use in USES:
                if rule in getattr(self, use):
                    return use
        return "train"

    def speaks_of(self, corpus: str, role: str) -> bool:
        """Whether its rules are meant for a corpus of this role."""
        return corpus in self.corpora if self.corpora else role == "train"

    def weights_of(self, corpora: Collection[str]) -> dict[str, float]:
        """The weights of labels and of the named corpora."""
        return {
            name: weight
            for name, weight in self.weights.items()
            if name in LABELS or name.partition("/")[0] in corpora
        }

    def uses(self, table: pa.Table, use: Use) -> NDArray[np.bool_]:
        """[N] Which rows (columns corpus and split) are for one use."""
        corpora, splits = pc.unique(table["corpus"]), pc.unique(table["split"])
        is_chosen = np.array(
            [
                [self.use(corpus, split) == use for split in splits.to_pylist()]
                for corpus in corpora.to_pylist()
            ],
            dtype=bool,
        ).reshape(len(corpora), len(splits))
        chosen = is_chosen[
            pc.index_in(table["corpus"], corpora).to_numpy(), pc.index_in(table["split"], splits).to_numpy()
        ]
        return cast("NDArray[np.bool_]", chosen)

    def labelled(self, table: pa.Table) -> pa.Table:
        """The rows under the label policy: what counts as bona fide has neither artifact nor attack."""
        if not self.bonafide_artifacts:
            return table
        counts = pc.is_in(table["artifact"], pa.array(self.bonafide_artifacts))
        for name, value in (("label", "bonafide"), ("attack", None), ("artifact", None)):
            if name in table.column_names:
                column = pc.if_else(counts, pa.scalar(value, pa.string()), table[name])
                table = table.set_column(table.column_names.index(name), name, column)
        return table


def load_recipe(name: str) -> Recipe:
    """Read a recipe by its name in `manifests/recipes`, or by the path of a TOML file.

    Raises:
        InputError: there is none, or it is malformed; the message names the file and the key.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = recipe_names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}, or name a .toml file"
        raise InputError(f"unknown recipe {name!r}; {hint}")
    table = load_toml(path)
    recipe = Recipe(
        name=table.text("name"),
        corpora=table.texts("corpora", ()),
        train=table.texts("train", ()),
        validation=table.texts("validation", Recipe.validation),
        excluded=table.texts("excluded", ()),
        weights=_weights(table.table("weights")),
        bonafide_artifacts=table.texts("bonafide_artifacts", ()),
    )
    table.finish()
    _check(recipe, table)
    return recipe


def recipe_names() -> list[str]:
    """The recipes of `manifests/recipes`."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _weights(table: TomlTable | None) -> dict[str, float]:
    return {name: table.number(name) for name in list(table.values)} if table else {}


def _check(recipe: Recipe, table: TomlTable) -> None:
    """What no single key can show."""
    if recipe.name != table.path.stem:
        raise table.error("name", f"{recipe.name!r}, but the file is {table.path.name}")
    for corpus in recipe.corpora:
        if recipe.corpora.count(corpus) > 1:
            raise table.error("corpora", f"{corpus!r} is named twice")
    seen: dict[str, str] = {}
    for use in USES:
        for rule in getattr(recipe, use):
            if rule in seen:
                raise table.error(use, f"{rule!r} stands in {seen[rule]} already")
            seen[rule] = use
            _check_rule(recipe, table, use, rule)
    for name in recipe.weights:
        corpus, _, label = name.partition("/")
        if name not in LABELS and (label not in ("", *LABELS) or not _may_name(recipe, corpus)):
            raise table.error(f"weights.{name}", "is no label, corpus of this recipe or corpus/label")
    for artifact in recipe.bonafide_artifacts:
        if artifact not in ARTIFACTS:
            raise table.error("bonafide_artifacts", f"{artifact!r} is none of {', '.join(ARTIFACTS)}")


def _check_rule(recipe: Recipe, table: TomlTable, key: str, rule: str) -> None:
    corpus, slash, split = rule.partition("/")
    if corpus == ANY_CORPUS:
        if not slash:
            raise table.error(key, f"{rule!r} says nothing; what no rule takes is trained on")
    elif not _may_name(recipe, corpus):
        raise table.error(key, f"{rule!r}: the recipe has no corpus {corpus!r}")
    if slash and split not in (*SPLITS, NO_SPLIT):
        raise table.error(key, f"{rule!r}: {split!r} is none of {', '.join((*SPLITS, NO_SPLIT))}")


def _may_name(recipe: Recipe, corpus: str) -> bool:
    return bool(corpus) and (corpus in recipe.corpora or not recipe.corpora)


@dataclass(frozen=True)
class Leakage:
    """Where genuine speech of one origin is on both sides of a recipe."""

    sources: tuple[str, ...]
    """Origins that both what trains and what validates draw from."""
    unknown: tuple[str, ...]
    """Corpora whose origins nobody has written down."""


def find_leakage(
    recipe: Recipe, parts: Iterable[tuple[str, str | None]], manifests: Mapping[str, Manifest]
) -> Leakage:
    """Compare the origins of what trains and of what validates, by what the manifests say.

    Args:
        recipe: says which is which.
        parts: corpora and splits that there are.
        manifests: by corpus; one that has none is of unknown origin.
    """
    sources: dict[Use, set[str]] = {use: set() for use in USES}
    unknown: set[str] = set()
    for corpus, split in parts:
        use = recipe.use(corpus, split)
        origins = manifests[corpus].sources if corpus in manifests else ()
        sources[use].update(origins)
        if not origins and use != "excluded":
            unknown.add(corpus)
    return Leakage(tuple(sorted(sources["train"] & sources["validation"])), tuple(sorted(unknown)))
