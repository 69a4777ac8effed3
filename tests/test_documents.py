"""The documents are true: their paths, commands and flags exist, and their examples parse and run."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

from jobs.__main__ import commands, run_command
from jobs.benchmarks import detector as detector_benchmark
from jobs.ray_session import ray_session
from jobs.training.config import TrainConfig
from pipeline.config import config_class, parse
from pipeline.data.corpora.manifest import load_manifest
from pipeline.data.corpora.recipe import load_recipe
from tests.corpora import write_asvspoof2019_la, write_in_the_wild

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "cluster/README.md",
    "manifests/README.md",
    *PAGES,
]

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


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def examples(document: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", read(document), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in blocks]


def all_examples(language: str) -> list[object]:
    """Every block of a language, as parameters of a test."""
    return [
        pytest.param(example, id=f"{document}-{number}")
        for document in DOCUMENTS
        for number, example in enumerate(examples(document, language))
    ]


def spans(document: str) -> list[str]:
    """The `inline code` of a document."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", read(document))


def command_lines(script: str) -> Iterator[tuple[str, list[str]]]:
    """The command and the arguments of every `bonafide NAME …` and `python -m jobs.NAME …`."""
    for line in re.sub(r"\\\n\s*", " ", script).splitlines():
        for name, rest in re.findall(r"(?:^|\s)(?:bonafide |python -m jobs\.)([a-z][\w.]*)(.*)", line):
            arguments = shlex.split(rest, comments=True)
            yield name, arguments[: arguments.index("&")] if "&" in arguments else arguments


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
        "python": 3,
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
def test_every_toml_example_is_a_manifest_a_recipe_or_a_config(example: str, tmp_path: Path):
    keys = tomllib.loads(example)
    path = tmp_path / f"{keys.get('name', 'train')}.toml"
    path.write_text(example, encoding="utf-8")
    if "audio" in keys:
        assert load_manifest(path).name == keys["name"]
    elif "name" in keys:
        assert load_recipe(str(path)).name == keys["name"]
    else:
        parse(TrainConfig, ["--config", str(path), "--store", "s", "--out", "o"], command="bonafide train")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_are_in_plain_english(document: str):
    text = " ".join(read(document).split())
    assert [match[0] for phrase in DIALECT for match in re.finditer(phrase, text)] == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which the four commands of the README have run on small corpora, with a tiny detector."""
    home = tmp_path_factory.mktemp("home")
    write_asvspoof2019_la(home / "data")
    write_in_the_wild(home / "data")
    script = next(example for example in examples("README.md", "sh") if "bonafide ingest" in example)
    lines = list(command_lines(script))
    assert [name for name, _ in lines] == ["ingest", "train", "score", "evaluate"]
    with ray_session(num_cpus=2):
        for name, arguments in lines:
            arguments = [re.sub("^~", str(home), argument) for argument in arguments]
            if name == "train":
                arguments = for_a_tiny_detector(arguments)
            assert run_command(name, arguments) == 0
    return home


def for_a_tiny_detector(arguments: list[str]) -> list[str]:
    """The same training in a few steps, from random weights."""
    init = arguments.index("--init")
    arguments = [*arguments[:init], *arguments[init + 2 :]]
    arguments[arguments.index("--config") + 1] = str(ROOT / "jobs" / "presets" / "demo.toml")
    steps = ["--training.optimiser.num-steps", "4", "--training.optimiser.num-warmup-steps", "1"]
    steps += ["--training.validate-every", "2", "--training.log-every", "1"]
    return [*arguments, *steps]


needs_results = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


def trees() -> list[object]:
    """The trees of the README: a folder, and what each pattern below it stands for."""
    block = read("README.md").partition("## What you get")[2].partition("```\n")[2].partition("```")[0]
    found: list[object] = []
    for tree in block.split("\n\n"):
        first, *lines = tree.splitlines()
        folder = first.split()[0].removeprefix("~/")
        entries = {
            pattern: text for line in lines for pattern, text in re.findall(r"^[├└]── (\S+) +(.+)$", line)
        }
        assert len(entries) == len(lines)
        found.append(pytest.param(folder, entries, marks=needs_results, id=folder))
    return found


@pytest.mark.parametrize(("folder", "entries"), trees())
def test_the_trees_of_the_readme_are_what_the_commands_write(
    folder: str, entries: dict[str, str], home: Path
):
    root = home / folder
    files = {path for path in root.rglob("*") if path.is_file()}
    found = {pattern: set(root.glob(pattern.replace("CORPUS", "*"))) for pattern in entries}
    always = {
        pattern for pattern, text in entries.items() if not text.endswith(("(if any)", "(with --audio)"))
    }
    assert {pattern for pattern in always if not found[pattern]} == set()
    described = set().union(*found.values(), root.glob("config*"), root.glob("configs/*"))
    by_ray_train = {
        root / "checkpoints" / name
        for name in (".validate_storage_marker", "checkpoint_manager_snapshot.json")
    }
    assert files - described - by_ray_train == set()


@pytest.mark.parametrize(
    "document",
    [pytest.param(name, marks=needs_results) for name in DOCUMENTS if examples(name, "python")],
)
def test_every_python_example_runs(document: str, home: Path):
    """Each example has its own namespace; they share a process, because importing torch takes seconds."""
    run_all = "import json, sys\nfor example in json.load(sys.stdin): exec(example, {'__name__': '__main__'})"
    done = subprocess.run(
        [sys.executable, "-c", run_all],
        input=json.dumps(examples(document, "python")),
        env=os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


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
