"""A background thread that sends metrics to a server, which may be unreachable for a while."""

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
"""MLflow rejects more."""
MAX_QUEUED_METRICS = 200_000
RETRY_S = 15.0
CLOSE_TIMEOUT_S = 20.0

Point = tuple[str, float, int, int]
"""Metric, value, milliseconds since the epoch, step."""


class MetricSender:
    """Sends metrics in batches from a thread, and queues them while the server is unreachable."""

    def __init__(self, client: MlflowClient, run_id: str, model_id: str | None) -> None:
        self.is_reachable = True
        self._client = client
        self._run_id = run_id
        self._model_id = model_id
        self._queue: deque[Point] = deque()
        self._num_dropped = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def send(self, points: list[Point]) -> None:
        """Queue metrics without blocking; once 200,000 wait, newer ones are dropped and counted."""
        with self._lock:
            num_free = max(0, MAX_QUEUED_METRICS - len(self._queue))
            self._num_dropped += max(0, len(points) - num_free)
            self._queue.extend(points[:num_free])
        self._wake.set()

    def close(self) -> int:
        """Try for up to 20 s to send the queued metrics; returns how many were lost."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        return self._num_dropped + len(self._queue)

    def _send_until_closed(self) -> None:
        is_closing = False
        while not is_closing:
            self._wake.wait()
            self._wake.clear()
            # Read before sending, so that metrics queued before close() are still sent.
            is_closing = self._is_closing
            while self._queue and self._send_batch():
                pass
            if self._queue and not is_closing:
                self._pause()

    def _pause(self) -> None:
        """Wait before the next attempt; close() ends the wait early, new metrics do not."""
        until = time.monotonic() + RETRY_S
        while not self._is_closing and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()
        self._wake.set()

    def _send_batch(self) -> bool:
        from mlflow.entities import Metric

        with self._lock:
            batch = list(islice(self._queue, MAX_METRICS_PER_CALL))
        try:
            self._client.log_batch(
                self._run_id, metrics=[Metric(*point, model_id=self._model_id) for point in batch]
            )
        except failures() as failure:
            if self.is_reachable:
                warn("MLflow does not respond; metrics are queued and sent later", failure)
            self.is_reachable = False
            return False
        self.is_reachable = True
        with self._lock:
            for _ in batch:
                self._queue.popleft()
        return True
