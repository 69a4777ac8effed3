"""Metrics on their way to a server that may be away."""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.tracking.server import failures, warn

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_METRICS_PER_CALL = 1000
"""MLflow refuses more."""
MAX_WAITING_METRICS = 200_000
RETRY_S = 15.0
CLOSING_S = 20.0

Point = tuple[str, float, int, int]
"""Metric, value, milliseconds since the epoch, step."""


class MetricSender:
    """A thread that sends metrics in batches and keeps them while the server is away."""

    def __init__(self, client: MlflowClient, run_id: str, model_id: str | None) -> None:
        self.is_reachable = True
        self._client = client
        self._run_id = run_id
        self._model_id = model_id
        self._waiting: deque[Point] = deque()
        self._num_dropped = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def send(self, points: list[Point]) -> None:
        """Queue metrics without waiting; beyond 200,000 the newest are dropped and counted."""
        with self._lock:
            num_free = max(0, MAX_WAITING_METRICS - len(self._waiting))
            self._num_dropped += max(0, len(points) - num_free)
            self._waiting.extend(points[:num_free])
        self._wake.set()

    def close(self) -> int:
        """Try once more to send what waits, for a bounded time; return how many metrics were lost."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(CLOSING_S)
        return self._num_dropped + len(self._waiting)

    def _send_until_closed(self) -> None:
        is_closing = False
        while not is_closing:
            self._wake.wait()
            self._wake.clear()
            is_closing = self._is_closing  # read before sending: what is queued until now still goes out
            while self._waiting and self._send_batch():
                pass
            if self._waiting and not is_closing:
                self._pause()

    def _pause(self) -> None:
        """Leave an absent server alone for a while; closing ends the pause, new metrics do not."""
        until = time.monotonic() + RETRY_S
        while not self._is_closing and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()
        self._wake.set()

    def _send_batch(self) -> bool:
        from mlflow.entities import Metric

        with self._lock:
            batch = list(islice(self._waiting, MAX_METRICS_PER_CALL))
        try:
            self._client.log_batch(
                self._run_id, metrics=[Metric(*point, model_id=self._model_id) for point in batch]
            )
        except failures() as failure:
            if self.is_reachable:
                warn("MLflow does not answer; metrics wait and are sent later", failure)
            self.is_reachable = False
            return False
        self.is_reachable = True
        with self._lock:
            for _ in batch:
                self._waiting.popleft()
        return True
