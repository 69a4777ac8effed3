"""Every command of the documents runs as it is printed: in a shell, with relative paths, and as a Ray job.

The reader has a home folder with small corpora, and a checkout in which the presets train a tiny detector for a few
steps. Nothing else of a printed line is changed, except what `STAND_INS` lists. The commands of the README run in a
shell, and those of its Ray cluster as jobs. Those of the other documents run in this process, which takes less time,
with a path relative to the checkout for the home folder. Jobs that follow each other with the same options are
submitted as one, because each submission takes seconds.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jobs.__main__ import run_command
from jobs.training.folder import CONFIG
from jobs.training.record import load_result
from pipeline.config import load_toml
from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.checkpoint import save_detector
from pipeline.detector.network import PREFIX, Detector, DetectorConfig
from pipeline.detector.variants import VARIANTS
from pipeline.storage import Folder
from tests.corpora import write_asvspoof2019_la, write_in_the_wild, write_partialspoof
from tests.documents import DOCUMENTS, ROOT, command_lines, examples, read
from tests.test_registry import free_port, serving

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]

FIRST = "README.md"
"""The document whose commands run first; the examples of the others use their results."""

CLUSTER = "cluster/README.md"

BEFORE = {
    "docs/scoring.md": "docs/tracking.md",
    "docs/evaluation.md": "docs/scoring.md",
    "docs/calibration.md": "docs/partial.md",
}
"""Documents whose examples use results of another one: the detector that it registers, the scores that it writes, the
corpus that it ingests."""

NOT_RUN = {
    r"make |source |\.venv/": "sets up the checkout",
    r"bonafide benchmark|python -m jobs\.benchmarks\.": "takes minutes; the benchmarks have tests of their own",
    r"mlflow ui": "does not end",
    r"bonafide calibrate|bonafide (score|evaluate) (.|\n)*--calibration": "four training steps tell no classes apart",
    r"bonafide drift": "twelve utterances are too few for a reference",
    r"bonafide trace": "two of its inputs are published lists, and the small corpora have too few systems",
    r"cd cluster|cat > \.env|[A-Z_]+=(\$\(openssl|10\.)|END$|docker": "needs Docker",
    r"ray (up|down|dashboard|exec|attach|rsync-up|job submit --no-wait -- mlflow)|export RAY_|"
    r"    --backend-store-uri|MLFLOW=http://10\.0\.0\.12": "needs the machines of a cloud",
    r"ray job (logs|stop)": "has a placeholder",
}
"""Lines that no test can run, and why."""

STAND_INS = {
    "http://mlflow.example.org:5000": "{mlflow}",
    "http://10.0.0.5:5000": "{mlflow}",
    "https://minio.example.org": "{s3}",
    "http://10.0.0.5:8333": "{s3}",
    "s3://BUCKET/": "s3://bucket/",
    "s3://bonafide/": "s3://bucket/",
    "/mnt/": "{home}/mnt/",
    "/home/ray/": "{home}/models/",
    "cd .. && ": "",
    " --no-wait": "",  # the next line needs the result
    " --device cuda": "",
    "--layer head,4,8": "--layer head,1,2",  # the stand-in for the detector has two layers
}
"""Parts of printed lines that stand for something of the reader's own, and what they are here."""

SUBMIT_TOGETHER = r"""
options=() commands=() only=()
submit() {
    case ${#commands[@]} in
        0) ;;
        1) command ray job submit "${options[@]}" -- "${only[@]}" ;;
        *) command ray job submit "${options[@]}" -- bash -euxc "$(printf '%s; ' "${commands[@]}")" ;;
    esac
    commands=()
}
ray() {
    if [[ "$1 $2" != "job submit" ]]; then
        command ray "$@"
        return
    fi
    shift 2
    local own=()
    while [[ $1 != -- ]]; do
        own+=("$1")
        shift
    done
    shift
    if [[ "${own[*]}" != "${options[*]}" ]]; then
        submit
        options=("${own[@]}")
    fi
    only=("$@")
    commands+=("$(printf '%q ' "$@")")
}
"""
"""A shell function in the place of `ray`: jobs with the same options are submitted as one, which `submit` ends."""

PRESET = """
variant = "tiny"
register = "bonafide-xlsr_300m"

[batch]
max_seconds = 30.0
num_buckets = 2
crop_min_s = 1.0
crop_max_s = 2.0

[training]
precision = "fp32"
validate_every = 2
checkpoint_every = 2
log_every = 1

[training.optimiser]
learning_rate = 1e-3
num_warmup_steps = 1
num_steps = 4
"""


@dataclass(frozen=True)
class Reader:
    """Types what the documents print, in a checkout below a home folder."""

    home: Path
    environment: Mapping[str, str]
    """With the addresses of an S3 server and an MLflow server."""
    done: set[str] = field(default_factory=set)
    """The scripts that ran in this process."""

    @property
    def checkout(self) -> Path:
        return self.home / "bonafide"

    def run(self, script: str, **environment: str) -> None:
        """Run a printed script in a shell."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.with_stand_ins(script)],  # noqa: S607
            cwd=self.checkout,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=500,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{script}\n{output}"
        assert "Traceback" not in output, output

    def run_in_process_once(self, script: str) -> None:
        """Run the commands of a printed script in this process, unless they have been run."""
        if script not in self.done:
            self.run_in_process(script)
            self.done.add(script)

    def run_in_process(self, script: str) -> None:
        """Run the commands of a printed script in this process, on the Ray of the tests, with relative paths."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.checkout)
            patch.setenv("HOME", str(self.home))
            for name, arguments in command_lines(self.with_stand_ins(script)):
                # A shell expands a tilde at the start of a word only; the commands expand the others.
                argv = [re.sub("^~", "..", argument) for argument in arguments]
                assert run_command(name, argv) == 0, f"{name} {argv}"

    def with_stand_ins(self, script: str) -> str:
        """Replace what stands for something of the reader's own."""
        for name, stand_in in STAND_INS.items():
            script = script.replace(
                name,
                stand_in.format(
                    home=self.home,
                    mlflow=self.environment["MLFLOW"],
                    s3=self.environment["AWS_ENDPOINT_URL"],
                ),
            )
        return script


def runnable(document: str) -> Iterator[str]:
    """Every example of a document without the lines that no test can run, if any line is left."""
    for example in examples(document, "sh"):
        lines = [line for line in re.findall(r"(?:.*\\\n)*.*\n", example) if not is_excluded(line)]
        if script := "".join(lines).strip():
            yield script


def is_excluded(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in NOT_RUN)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with corpora, checkpoints, calls, and a checkout with small presets."""
    home = tmp_path_factory.mktemp("home")
    write_asvspoof2019_la(home / "data", num_train=24, num_dev=8)
    write_in_the_wild(home / "data", count=12)
    write_partialspoof(home / "data", sets=("train", "dev"))
    tones(home / "data" / "MLAAD_v5" / "fake" / "de" / "bark", 2)
    tones(home / "data" / "musan" / "noise" / "free-sound", 2)
    tones(home / "data" / "RIRS_NOISES" / "simulated_rirs" / "smallroom" / "Room001", 2)
    tones(home / "mnt" / "mls" / "mls_german" / "train" / "audio" / "7" / "1", 2, ".flac")
    tones(home / "calls", 3)
    write_protocol(home / "data" / "train.csv")
    write_checkpoints(home / "models")
    checkout = home / "bonafide"
    for folder in ("jobs", "pipeline", "manifests", "cluster"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for preset in ("xlsr_300m", "deepfake_eval_2024"):
        (checkout / "jobs" / "presets" / f"{preset}.toml").write_text(PRESET, encoding="utf-8")
    return home


def tones(folder: Path, count: int, ending: str = ".wav") -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        tone = 0.2 * np.sin(2 * np.pi * (300 + 100 * number) * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
        soundfile.write(folder / f"tone_{number}{ending}", tone, SAMPLE_RATE)


def write_protocol(path: Path) -> None:
    """A protocol CSV of AntiDeepfake with two files."""
    columns = "ID,Label,Duration,SampleRate,Path,Attack,Speaker,Proportion,AudioChannel,AudioEncoding,AudioBitSample"
    rows = [
        f"C-{number},{label},1.0,16000,$ROOT/MLAAD_v5/fake/de/bark/tone_{number}.wav,-,-,train,1,PCM_S,16,DE"
        for number, label in enumerate(("real", "fake"))
    ]
    path.write_text("\n".join([f"{columns},Language", *rows]) + "\n", encoding="utf-8")


def write_checkpoints(folder: Path) -> None:
    """A front end as fairseq saves one, and a detector."""
    folder.mkdir()
    torch.manual_seed(0)
    detector = Detector(DetectorConfig(VARIANTS["tiny"]))
    weights = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in detector.state_dict().items()
        if name.startswith(PREFIX)
    }
    torch.save({"args": None, "model": weights}, folder / "xlsr2_300m.pt")
    save_detector(detector, folder / "xlsr_1b.safetensors", {})


@pytest.fixture(scope="module")
def reader(home: Path, s3_endpoint: str) -> Iterator[Reader]:
    """A reader who has typed the commands of the README; an S3 server and an MLflow server are running."""
    import s3fs

    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("bucket")
    filesystem.put(str(home / "data"), "bucket/data", recursive=True)
    filesystem.put(str(home / "calls"), "bucket/calls", recursive=True)
    filesystem.put(str(home / "calls"), "bucket/AIShell3/train/wav/SSB0005", recursive=True)
    # Without the settings of the Ray of other tests, which may run in this process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with serving(f"sqlite:///{home}/server.db", home) as mlflow:
        reader = Reader(home, environment | {"MLFLOW": mlflow})
        for script in runnable(FIRST):
            reader.run(script)
        yield reader


@contextlib.contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[str]:
    """Run a Ray cluster of one machine; yields the address to which jobs are submitted."""
    port, dashboard, client, agent = (free_port() for _ in range(4))
    address = f"http://127.0.0.1:{dashboard}"
    options = {
        "port": port,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,  # that of the local Ray of other tests has the usual one
        "include-dashboard": True,
        "num-cpus": 2,
        "object-store-memory": 200 * 2**20,
    }
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets need a short path
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += [f"--{name}={value}" for name, value in options.items()]
        # With this address, processes of the cluster do not search for it among those of other tests.
        inner = {**environment, "RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "token"}
        with (Path(folder) / "log").open("w") as log:
            head = subprocess.Popen(command, env=inner, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_jobs(dashboard, Path(environment["HOME"]))
            yield address
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def wait_for_jobs(port: int, home: Path) -> None:
    """Wait until a new cluster accepts jobs, which it does some seconds after its server answers."""
    token = (home / ".ray" / "auth_token").read_text(encoding="ascii").strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    until = time.monotonic() + 120
    status: int | OSError | None = None
    while status != http.HTTPStatus.OK:
        assert time.monotonic() < until, f"the cluster accepts no jobs: {status}"
        time.sleep(0.5)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            try:
                connection.request("POST", "/api/jobs/", json.dumps({"entrypoint": "true"}), headers)
                status = connection.getresponse().status
            except OSError as error:
                status = error


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
        found.append(pytest.param(folder, entries))
    return found


@pytest.mark.parametrize(("folder", "entries"), trees())
def test_the_trees_of_the_readme_are_what_the_commands_write(
    folder: str, entries: dict[str, str], reader: Reader
):
    root = reader.home / folder
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


def scripts() -> list[object]:
    """The examples of all documents but those that run first and those of the cluster, in the order of the pipeline."""
    later = [
        "docs/ingest.md",
        "docs/training.md",
        "docs/tracking.md",
        "docs/scoring.md",
        "docs/evaluation.md",
    ]
    first = [document for document in DOCUMENTS if document not in (FIRST, CLUSTER, *later)]
    return [
        pytest.param(document, number, id=f"{document}-{number}")
        for document in (*first, *later)
        for number, _ in enumerate(runnable(document))
    ]


def needed(document: str) -> list[str]:
    """The examples of the documents whose results this one uses, in order."""
    if document not in BEFORE:
        return []
    before = BEFORE[document]
    return [*needed(before), *runnable(before)]


@pytest.mark.parametrize(("document", "number"), scripts())
def test_an_example_runs_as_printed(document: str, number: int, reader: Reader, cluster: None):
    """Earlier examples run first, if they have not, so that each can be tested alone."""
    for script in [*needed(document), *list(runnable(document))[: number + 1]]:
        reader.run_in_process_once(script)


def test_what_was_typed_with_relative_paths_is_where_the_reader_expects_it(reader: Reader, cluster: None):
    """The workers of Ray are in another folder than the reader."""
    for script in runnable("docs/training.md"):
        reader.run_in_process_once(script)
    run = reader.home / "runs" / "augmented"
    result = load_result(Folder(str(run)))
    assert result is not None and result.num_steps == 4
    assert load_toml(run / CONFIG)["store"] == str(reader.home / "store")


@pytest.mark.parametrize(
    "document",
    [name for name in DOCUMENTS if examples(name, "python")],
)
def test_every_python_example_runs(document: str, reader: Reader, cluster: None):
    """Each example has its own namespace; they share a process, because importing torch takes seconds."""
    if document != FIRST:
        for script in [*needed(document), *runnable(document)]:
            reader.run_in_process_once(script)
    run_all = "import json, sys\nfor example in json.load(sys.stdin): exec(example, {'__name__': '__main__'})"
    done = subprocess.run(
        [sys.executable, "-c", run_all],
        input=json.dumps(examples(document, "python")),
        env=reader.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_jobs_of_the_cluster_run_as_printed(reader: Reader):
    with ray_cluster(reader.environment) as address:
        for script in runnable(CLUSTER):
            reader.run(f"{SUBMIT_TOGETHER}\n{script}\nsubmit", RAY_ADDRESS=address, RAY_AUTH_MODE="token")


def test_every_line_that_is_not_run_is_excluded_for_a_reason_that_still_exists():
    lines = [
        line for document in DOCUMENTS for script in examples(document, "sh") for line in script.splitlines()
    ]
    unused = [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)]
    assert unused == []
