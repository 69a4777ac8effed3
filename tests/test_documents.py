"""What the documents say is true: the file tree, the paths, the commands and their flags, the examples."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.__main__ import commands as list_commands
from pipeline import tables
from pipeline.config import Names, run
from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import choose_manifests
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import shards
from pipeline.data.store.plan import plan_shards
from pipeline.detector.checkpoint import save_detector
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md", "manifests/README.md")
PLACEHOLDERS = ("NAME", "new_corpus")


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def file_tree() -> list[str]:
    """The paths of the tree in the README; folders end with a slash."""
    block = read("README.md").partition("## Files\n\n```\n")[2].partition("```")[0]
    paths: list[str] = []
    parents: list[str] = []
    for line in block.splitlines():
        name, _, words = line.strip().partition(" ")
        assert words.strip(), f"{name} has no line of its own"
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.append("".join(parents))
    return paths


def test_every_path_of_the_tree_is_there():
    assert [path for path in file_tree() if not list(ROOT.glob(path.rstrip("/")))] == []


def test_every_file_of_library_and_jobs_is_in_the_tree():
    files = {
        path.relative_to(ROOT).as_posix()
        for room in ("pipeline", "jobs", "cluster")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "py.typed"
    }
    listed = file_tree()
    assert sorted(files - set(listed)) == [], "without a line in the file tree of README.md"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_is_there(document: str):
    named = re.findall(
        r"(?<![\w/.:-])(?:pipeline|jobs|manifests|cluster|tests)/[\w./*-]*[\w/*]", read(document)
    )
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", read(document)) if "://" not in link]
    missing = {path for path in named if not re.search("|".join(PLACEHOLDERS), path) and not is_there(path)}
    missing |= {link for link in links if not ((ROOT / document).parent / link).exists()}
    assert missing == set()


def is_there(path: str) -> bool:
    return any(ROOT.glob(path.rstrip("/")))


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every `bonafide NAME …` and `-m jobs.NAME …` of a document, with its flags."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for name, words in re.findall(r"(?:\bbonafide (?=[a-z]+ -)|-m jobs\.)([a-z]+)((?: [^\n`#|&]*)?)", joined):
        yield name, re.findall(r"(?<![\w-])--[a-z][\w.-]*", words)


def flags_of(name: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        run(importlib.import_module(f"jobs.{name}").main, ["--help"])
    return set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))


def test_every_flag_that_a_document_shows_is_a_flag_of_its_command(capsys: pytest.CaptureFixture[str]):
    shown: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        for name, flags in commands(read(document)):
            shown.setdefault(name, set()).update(flags)
    assert {"corpora", "ingest", "train", "score", "evaluate", "demo"} <= set(shown) <= set(list_commands())
    assert {name: flags - flags_of(name, capsys) for name, flags in shown.items() if flags} == {
        name: set() for name, flags in shown.items() if flags
    }


def test_every_flag_in_the_prose_belongs_to_some_command(capsys: pytest.CaptureFixture[str]):
    known = {"--help", "--working-dir"}.union(*(flags_of(name, capsys) for name in list_commands()))
    for document in DOCUMENTS:
        for span in re.findall(r"(?<!`)`(--[^`\n]+)`(?!`)", read(document)):
            assert shlex.split(span)[0] in known, f"{document}: {span}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STORE, SCORES and RUN, as the examples call them, with little in them."""
    place = tmp_path_factory.mktemp("results")
    write_in_the_wild(place / "DATA", count=6, seconds=0.5)
    manifest = choose_manifests(Names(["in_the_wild"]))["in_the_wild"]
    root, store = Folder(str(place / "DATA" / manifest.folder)), Folder(str(place / "STORE"))
    listed = catalogs.rows(read_files(manifest, root), manifest.name, Recipe())
    found = catalogs.table(list(catalogs.probe_rows(listed, root, manifest, None)))
    catalog, plans = plan_shards(
        found, None, build_settings=shards.build_settings("soxr_hq", ""), target_bytes=2**20
    )
    for plan in plans:
        members = catalog.filter(pc.equal(catalog["shard"], plan.name)).to_pylist()
        shards.build_shard(plan.name, members, root, store, licence=manifest.licence, resampler="soxr_hq")
    scores = catalog.select(["uid", "id", "label"]).append_column("score", pa.array([0.5] * len(catalog)))
    Folder(str(place / "SCORES")).commit("scores/part-000000.parquet", tables.to_parquet(scores))
    (place / "RUN").mkdir()
    save_detector(Detector(DetectorConfig(VARIANTS["tiny"])), place / "RUN" / "detector.safetensors", {})
    return place


@pytest.mark.parametrize("number", range(3))
def test_the_examples_of_the_readme_run(number: int, results: Path):
    examples = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert len(examples) == 3
    done = subprocess.run(
        [sys.executable, "-c", examples[number]], cwd=results, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert ("ItW-0 spoof en", "ItW-0", "tiny")[number] in done.stdout


def test_every_command_is_in_the_readme():
    assert [name for name in list_commands() if f"bonafide {name} " not in read("README.md")] == []


def test_dependencies_are_explained():
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    asked = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    asked += project["project"]["optional-dependencies"]["demo"]
    table = read("CONTRIBUTING.md").partition("## Why each dependency")[2].partition("\nNot there")[0]
    explained = {
        word
        for row in re.findall(r"^\| ([a-z][^|]+) \|", table, re.MULTILINE)
        for word in re.findall(r"[a-z][\w-]*", re.sub(r"\([^)]*\)", "", row))
    }
    wanted = {re.split(r"[\[<>=]", requirement)[0] for requirement in asked}
    assert explained - {"library"} == wanted


def test_pre_commit_fetches_nothing_and_calls_what_make_check_calls():
    import yaml

    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks[0]["hooks"]}
    makefile = read("Makefile").partition("\ncheck:")[2].partition("\n\n")[0]
    called = re.findall(r"\$\(BIN\)/(.+)", makefile)
    assert {
        " ".join(word for word in line.split() if word not in ("--check", ".")) for line in called
    } == entries
