"""Registered detectors: in a local database, and on a real server that proxies artifacts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline import tracking
from pipeline.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:mlflow"),
    pytest.mark.timeout(600),
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(database: str, folder: Path) -> Iterator[str]:
    """Run an `mlflow server` over a database, with proxied artifacts; yields its URL."""
    server, uri = start_server(database, folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # The first request takes long on a busy machine.
            patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
            yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def start_server(database: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server in a process group of its own, and wait until it responds."""
    until = time.monotonic() + 300
    for _ in range(3):  # another process may take the free port before the server does
        uri = f"http://127.0.0.1:{free_port()}"
        server = launch_server(database, folder, uri.rpartition(":")[2])
        while server.poll() is None and time.monotonic() < until:
            if responds(f"{uri}/health"):
                return server, uri
            time.sleep(0.1)
    raise AssertionError((folder / "server.log").read_text())


def launch_server(database: str, folder: Path, port: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    command += ["--workers", "1", "--backend-store-uri", database]
    command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("a") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | settings, start_new_session=True
        )


def responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module", params=["database", "server"])
def tracking_uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    database = f"sqlite:///{folder}/mlflow.db"
    if request.param == "database":
        yield database
        return
    with serving(database, folder) as uri:
        yield uri


def register(
    tracking_uri: str, name: str, weights: str, digest: str, eer: float, validation: str = "v"
) -> tracking.Version:
    with tracking.run(tracking_uri, "registry", job="train", name="t") as run:
        pass
    return register_again(tracking_uri, name, weights, str(run.run_id), digest, eer, validation)


def register_again(
    tracking_uri: str, name: str, weights: str, run_id: str, digest: str, eer: float, validation: str = "v"
) -> tracking.Version:
    tags = {"weights": digest, "error": eer, "validation": validation}
    version = tracking.register(
        tracking_uri, name, weights, run_id=run_id, tags=tags, description="a detector"
    )
    assert version is not None
    return version


def test_registered_weights_can_be_downloaded_again(tracking_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "detector.safetensors"
    file.write_bytes(b"weights")
    registered = register(tracking_uri, "round-trip", str(file), "d", 0.1)
    if tracking_uri.startswith("http"):
        file.unlink()  # the server has a copy
    for uri in ("models:/round-trip@best", "models:/round-trip/1", "models:/round-trip/latest"):
        version = tracking.find_version(tracking_uri, uri)
        assert version == registered
        assert tracking.download(tracking_uri, version, tmp_path / "fetched").read_bytes() == b"weights"
    assert version.tags == {"weights": "d", "error": "0.1", "validation": "v"}


def test_a_tag_of_a_registered_version_is_set_and_replaced_unless_it_is_too_long(tracking_uri: str) -> None:
    version = register(tracking_uri, "tagged", "s3://bucket/x.safetensors", "d", 0.1)
    for text in ('{"whole fp32":{}}', "[]"):
        tracking.set_version_tag(tracking_uri, version, "calibration", text)
        found = tracking.find_version(tracking_uri, version.uri)
        assert found.tags == {**version.tags, "calibration": text}
    with pytest.raises(
        InputError, match=r"models:/tagged/1: the tag calibration would have 9,000 characters"
    ):
        tracking.set_version_tag(tracking_uri, version, "calibration", "x" * 9000)


def test_weights_on_s3_are_referenced_and_not_copied(tracking_uri: str) -> None:
    registered = register(tracking_uri, "on-s3", "s3://bucket/run/detector.safetensors", "d", 0.1)
    assert registered.source == "s3://bucket/run/detector.safetensors"


def test_best_is_the_lowest_eer_on_the_same_data(tracking_uri: str) -> None:
    def add(digest: str, eer: float, validation: str = "v") -> bool:
        weights = f"s3://bucket/{digest}.safetensors"
        return register(tracking_uri, "race", weights, digest, eer, validation).is_best

    assert [add("a", 0.3), add("b", 0.2), add("c", 0.25), add("d", 0.1, "other data")] == [
        True,
        True,
        False,
        False,
    ]
    assert tracking.find_version(tracking_uri, "models:/race@best").number == 2
    assert tracking.find_version(tracking_uri, "models:/race/latest").number == 4


def test_the_same_weights_of_the_same_run_are_one_version(tracking_uri: str) -> None:
    with tracking.run(tracking_uri, "registry", job="train", name="t") as run:
        pass
    again = [
        register_again(tracking_uri, "once", "s3://bucket/x.safetensors", str(run.run_id), "d", 0.1)
        for _ in range(2)
    ]
    assert again[0] == again[1]
    assert again[0].number == 1


def test_an_unregistered_name_or_version_is_named(tracking_uri: str) -> None:
    register(tracking_uri, "known", "s3://bucket/x.safetensors", "d", 0.1)
    for uri, message in (
        ("models:/unknown@best", "has no registered model 'unknown'"),
        ("models:/known/7", "no such version or alias; its versions: 1"),
        ("models:/known@prod", "no such version or alias; its versions: 1"),
        ("models:/known", "write models:/NAME/VERSION"),
    ):
        with pytest.raises(InputError, match=message):
            tracking.find_version(tracking_uri, uri)


def test_a_registered_detector_needs_a_tracking_uri() -> None:
    with pytest.raises(InputError, match="--tracking-uri"):
        tracking.find_version("", "models:/known@best")


def test_a_name_that_mlflow_would_reject_is_rejected_at_once() -> None:
    tracking.check_name("bonafide-xlsr_300m")
    for name in ("", "a/b", "a@b", "it's"):
        with pytest.raises(InputError, match="cannot name a registered model"):
            tracking.check_name(name)


def test_an_unreachable_server_costs_a_warning_and_no_training(
    unreachable: str, caplog: pytest.LogCaptureFixture
) -> None:
    tags, uri = {"weights": "d", "error": 0.1, "validation": "v"}, f"http://{unreachable}"
    registered = tracking.register(uri, "x", "s3://b/x", run_id="f" * 32, tags=tags, description="")
    assert registered is None
    assert "run the same command again" in caplog.text
    with pytest.raises(InputError, match="does not respond"):
        tracking.find_version(uri, "models:/x@best")


POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), shutil.which("initdb"))


@pytest.mark.skipif(
    POSTGRES is None or find_spec("psycopg2") is None,
    reason="needs PostgreSQL and psycopg2, which no other test needs",
)
def test_a_server_over_postgresql_behaves_the_same(tmp_path: Path) -> None:
    with postgres(Path(str(POSTGRES)).parent) as database, serving(database, tmp_path) as uri:
        file = tmp_path / "detector.safetensors"
        file.write_bytes(b"weights")
        identity = {"bonafide.training": "1"}
        with tracking.run(uri, "registry", job="train", name="t", identity=identity, config={"a": 1}) as run:
            run.log_metrics({"train/loss": 0.5}, step=1)
        register_again(uri, "on-postgres", str(file), str(run.run_id), "d", 0.1)
        file.unlink()
        version = tracking.find_version(uri, "models:/on-postgres@best")
        assert tracking.download(uri, version, tmp_path / "fetched").read_bytes() == b"weights"
        with tracking.run(uri, "registry", job="train", name="t", identity=identity) as again:
            again.log_metrics({"train/loss": 0.4}, step=1)
        from mlflow.tracking import MlflowClient

        history = MlflowClient(uri).get_metric_history(str(run.run_id), "train/loss")
        assert [(point.step, point.value) for point in history] == [(1, 0.5)]


@contextmanager
def postgres(binaries: Path) -> Iterator[str]:
    """Run a private PostgreSQL on a free port; it does not run as root, so root starts it as user `postgres`."""
    import tempfile

    user = "postgres" if os.geteuid() == 0 else None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bonafide-postgres-") as folder:
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        subprocess.run(
            [str(binaries / "initdb"), "-D", data, "-U", "mlflow", "-A", "trust"],
            user=user,
            cwd=folder,
            check=True,
        )
        server = subprocess.Popen(
            [str(binaries / "postgres"), "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"],
            user=user,
            cwd=folder,
        )
        try:
            ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            until = time.monotonic() + 300
            while subprocess.run(ready, check=False).returncode:
                assert server.poll() is None and time.monotonic() < until
                time.sleep(0.1)
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
