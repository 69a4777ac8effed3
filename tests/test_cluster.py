"""The files of `cluster/`: Ray's validator accepts them, presets fit on the machines, and services are safe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.training.config import TrainConfig
from pipeline.config import parse

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The cluster configuration with Ray's defaults filled in."""
    written: dict[str, Any] = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text(encoding="utf-8"))
    prepared: dict[str, Any] = prepare_config(written)
    return prepared


def test_ray_accepts_the_cluster(cluster: dict[str, Any]):
    validate_config(cluster)


def test_ray_rejects_an_unknown_key(cluster: dict[str, Any]):
    with pytest.raises(Exception, match="spot_workers"):
        validate_config(cluster | {"spot_workers": 3})


def test_the_head_runs_no_tasks(cluster: dict[str, Any]):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0


def test_workers_scale_from_zero_and_all_of_them_fit_under_the_cluster_limit(cluster: dict[str, Any]):
    workers = [
        kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]
    ]
    assert [kind["min_workers"] for kind in workers] == [0, 0]
    assert sum(kind["max_workers"] for kind in workers) <= cluster["max_workers"]


@pytest.mark.parametrize(
    "preset", sorted((ROOT / "jobs" / "presets").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_preset_fits_on_the_gpu_machines(preset: Path, cluster: dict[str, Any]):
    flags = ["--config", str(preset), "--store", "s3://bucket/store", "--out", "s3://bucket/run"]
    config = parse(TrainConfig, flags, command="bonafide train")
    gpu = cluster["available_node_types"]["gpu"]
    per_machine = min(gpu["resources"]["GPU"], gpu["resources"]["CPU"] // config.cpus_per_worker)
    assert config.num_workers[1] <= per_machine * gpu["max_workers"]


def test_the_image_copies_existing_files_has_a_supported_python_and_does_not_run_as_root():
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"jobs", "manifests", "pipeline", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert [name for name in copied if f"!{name}" not in kept] == []
    base = re.search(r"^FROM python:(\d+)\.(\d+)-slim", text, re.MULTILINE)
    assert base and (int(base[1]), int(base[2])) >= (3, 11)
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file."""
    written: dict[str, Any] = yaml.safe_load((CLUSTER / "compose.yaml").read_text(encoding="utf-8"))
    assert {volume for service in written["services"].values() for volume in mounted(service)} == set(
        written["volumes"]
    )
    services: dict[str, Any] = written["services"]
    return services


def mounted(service: dict[str, Any]) -> list[str]:
    """List the volumes of a service."""
    return [volume.partition(":")[0] for volume in service.get("volumes", [])]


def test_secrets_come_from_the_environment_and_have_no_default(services: dict[str, Any]):
    secrets = {
        value
        for service in services.values()
        for name, value in service.get("environment", {}).items()
        if re.search("PASSWORD|KEY", name)
    }
    names = {match[1] for secret in secrets if (match := re.fullmatch(r"\$\{(\w+):\?[^}]+\}", secret))}
    assert len(names) == len(secrets), secrets
    assert names == {"POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert not re.search(r"://[^/\s]+:[^/\s]+@", (CLUSTER / "compose.yaml").read_text(encoding="utf-8"))


def test_only_mlflow_and_s3_publish_ports_and_by_default_only_on_this_machine(
    services: dict[str, Any],
):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "s3": ["${BIND_ADDRESS:-127.0.0.1}:8333:8333"],
        "mlflow": ["${BIND_ADDRESS:-127.0.0.1}:5000:5000"],
    }


def test_images_are_pinned_and_mlflow_has_the_version_of_the_client(services: dict[str, Any]):
    tags = {name: service["image"].rpartition(":")[2] for name, service in services.items()}
    assert all(re.match(r"v?\d", tag) for tag in tags.values()), tags
    pinned = re.search(r"^mlflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert tags["mlflow"] == tags["buckets"] == f"v{pinned[1]}-full"


def test_services_start_after_their_dependencies_are_healthy(services: dict[str, Any]):
    for service in services.values():
        for dependency, settings in service.get("depends_on", {}).items():
            is_one_shot = services[dependency]["restart"] == "no"
            assert settings["condition"] == (
                "service_completed_successfully" if is_one_shot else "service_healthy"
            )
            assert is_one_shot or services[dependency]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.filterwarnings("ignore")  # importing MLflow's command line emits warnings
def test_mlflow_accepts_its_flags(services: dict[str, Any]):
    from mlflow.cli import server

    program, command, *flags = services["mlflow"]["command"]
    assert (program, command) == ("mlflow", server.name)
    known = {option for parameter in server.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {flag.partition("=")[0] for flag in flags} <= known
    assert "--serve-artifacts" in flags
