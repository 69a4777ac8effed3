"""The documents are true: their paths, commands and flags exist, and their examples parse and run."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from string import Template

import pytest

from jobs.__main__ import commands
from jobs.benchmarks import detector as detector_benchmark
from jobs.training.config import TrainConfig
from pipeline.config import config_class, parse
from pipeline.data.corpora.manifest import load_manifest
from pipeline.data.corpora.recipe import load_recipe
from pipeline.evaluation.claims import read_claims
from tests.documents import DOCUMENTS, ROOT, all_examples, command_lines, examples, read, spans

PLACEHOLDERS = re.compile("NAME|new_corpus|calls.toml")
"""Parts of paths that a reader replaces."""

WRONG_COMMANDS = "docs/troubleshooting.md"
"""A page of commands that are refused; the tests of the situations run them."""

OTHER_FLAGS = {"--help", "--working-dir"}
"""Flags in the prose that belong to every command, or to `ray job submit`."""

DIALECT = (
    r"\b(goes|go|going) on\b(?! with)",
    r"\b(is|are) told\b",
    r"\bhears? of\b",
    r"\bof whom\b",
    r"\b(lies|lie) in\b",
    r"\b(a|no) right to\b",
    r"\bfor want of\b",
    r"\bto mend\b",
    r"\bby turns\b",
    r"\d there\b",
)
"""Phrases that a native speaker has to decode."""


@functools.cache
def help_text(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "jobs", name, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_of(name: str) -> set[str]:
    return set(re.findall(r"--[a-z][\w.-]*", help_text(name)))


def test_the_readme_is_short_and_has_examples():
    assert len(read("README.md").splitlines()) <= 200
    assert {language: len(examples("README.md", language)) for language in ("sh", "python", "toml")} == {
        "sh": 2,
        "python": 2,
        "toml": 1,
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_a_document_exists(document: str):
    text = read(document)
    paths = re.findall(r"(?<![\w/.:~-])(?:pipeline|jobs|manifests|cluster|tests|docs)/[\w./*-]*[\w/*]", text)
    missing = {
        path for path in paths if not PLACEHOLDERS.search(path) and not any(ROOT.glob(path.rstrip("/")))
    }
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing |= {link for link in links if not ((ROOT / document).parent / link).exists()}
    assert missing == set()


@pytest.mark.parametrize("example", all_examples("sh"))
def test_every_shell_example_parses(example: str, monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["bash", "-n"], input=example, text=True, check=True, timeout=120)  # noqa: S607
    monkeypatch.chdir(ROOT)
    variables = dict(re.findall(r"^([A-Z]+)=(\S+)$", "\n".join(map(read, DOCUMENTS)), re.MULTILINE))
    for name, words in command_lines(example):
        arguments = [Template(word).safe_substitute(variables) for word in words]
        if name == "benchmarks.detector":
            detector_benchmark.parse(arguments)
        else:
            main = importlib.import_module(f"jobs.{name}").main
            parse(config_class(main), arguments, command=f"bonafide {name}")


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != WRONG_COMMANDS])
def test_every_command_and_flag_in_the_prose_exists(document: str):
    unknown = []
    for span in spans(document):
        words = span.split()
        if words[0] == "bonafide" and len(words) > 1 and words[1] not in ("COMMAND", "--help"):
            known = OTHER_FLAGS | flags_of(words[1]) if words[1] in commands() else set()
        elif words[0].startswith("--"):
            known = OTHER_FLAGS.union(*(flags_of(name) for name in commands()))
        else:
            continue
        flags = [word for word in words if word.startswith("--")]
        unknown += [span for flag in flags or ["--help"] if flag not in known]
    assert unknown == []


def test_every_command_is_in_the_readme():
    assert [name for name in commands() if f"bonafide {name} " not in read("README.md")] == []


@pytest.mark.parametrize("example", all_examples("toml"))
def test_every_toml_example_is_a_manifest_a_recipe_claims_or_a_config(example: str, tmp_path: Path):
    keys = tomllib.loads(example)
    path = tmp_path / f"{keys.get('name', 'train')}.toml"
    path.write_text(example, encoding="utf-8")
    if "audio" in keys:
        assert load_manifest(path).name == keys["name"]
    elif "claim" in keys:
        assert len(read_claims(example, str(path))) == len(keys["claim"])
    elif "name" in keys:
        assert load_recipe(str(path)).name == keys["name"]
    else:
        parse(TrainConfig, ["--config", str(path), "--store", "s", "--out", "o"], command="bonafide train")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_are_in_plain_english(document: str):
    text = " ".join(read(document).split())
    assert [match[0] for phrase in DIALECT for match in re.finditer(phrase, text)] == []


def test_every_dependency_is_explained():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    required = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    required += project["project"]["optional-dependencies"]["demo"]
    table = read("CONTRIBUTING.md").partition("## Dependencies")[2].partition("\nDeliberately absent")[0]
    explained = {
        name
        for row in re.findall(r"^\| ([a-z][^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"[a-z][\w-]*", re.sub(r"\([^)]*\)", "", row))
    }
    assert explained - {"library"} == {re.split(r"[\[<>=]", requirement)[0] for requirement in required}


def test_pre_commit_runs_the_tools_of_make_check_and_downloads_nothing():
    import yaml

    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks[0]["hooks"]}
    makefile = read("Makefile").partition("\ncheck:")[2].partition("\n\n")[0]
    called = re.findall(r"\$\(BIN\)/(.+)", makefile)
    assert {
        " ".join(word for word in line.split() if word not in ("--check", ".")) for line in called
    } == entries
