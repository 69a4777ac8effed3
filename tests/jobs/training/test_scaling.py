"""The number of workers of an elastic training beside other jobs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.scaling_policy import NoopDecision
from ray.train.v2.api.config import ScalingConfig

from jobs.training import scaling
from jobs.training.scaling import ScalingPolicy

TWO_MACHINES = {"alpha": {"CPU": 1.0}, "beta": {"CPU": 1.0}}


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> ScalingPolicy:
    """A policy for one to four workers on two machines, without Ray."""
    policy = ScalingPolicy(ScalingConfig(num_workers=(1, 4), elastic_resize_monitor_interval_s=0.0))
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: TWO_MACHINES)
    return policy


def free(monkeypatch: pytest.MonkeyPatch, **cpus: float) -> None:
    """Set the CPUs that no job uses, for each machine."""
    monkeypatch.setattr(
        scaling, "free_resources", lambda: {name: {"CPU": count} for name, count in cpus.items()}
    )


def when_running(policy: ScalingPolicy, num_workers: int) -> Any:
    group: Any = SimpleNamespace(num_workers=num_workers, start_time=0.0)
    status: Any = None
    return policy.make_decision_for_running_worker_group(group, status)


def test_the_first_start_counts_what_an_earlier_attempt_has_not_freed_yet(
    policy: ScalingPolicy, monkeypatch: pytest.MonkeyPatch
):
    free(monkeypatch, alpha=0.0, beta=0.0)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_a_start_after_a_failed_one_leaves_to_other_jobs_what_they_use(
    policy: ScalingPolicy, monkeypatch: pytest.MonkeyPatch
):
    policy.make_decision_for_non_running_worker_group()
    free(monkeypatch, alpha=0.0, beta=1.0)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1
    free(monkeypatch, alpha=0.0, beta=0.0)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)


def test_a_training_grows_when_another_job_ends(policy: ScalingPolicy, monkeypatch: pytest.MonkeyPatch):
    free(monkeypatch, alpha=0.0, beta=0.0)
    assert isinstance(when_running(policy, 1), NoopDecision)
    free(monkeypatch, alpha=1.0, beta=0.0)
    assert when_running(policy, 1).num_workers == 2
    assert isinstance(when_running(policy, 2), NoopDecision)
