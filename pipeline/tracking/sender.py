"""A background thread that opens a run and sends what belongs to it, while the server may be away."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pipeline.errors import InputError, UnavailableError
from pipeline.tracking.failures import failures, is_temporary, warn
from pipeline.tracking.opening import Opener, ServerRun, find_all_in_experiment, last_steps

MAX_METRICS_PER_CALL = 1000
"""MLflow rejects more."""
MAX_QUEUED_METRICS = 200_000
RETRY_S = 15.0
CLOSE_TIMEOUT_S = 20.0

Call = Callable[[ServerRun], object]
"""A call to the server about an open run."""


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    time_ms: int
    """Milliseconds since the epoch."""
    step: int | None


class Sender:
    """Sends the calls and metrics of one run, and keeps them while the server is away.

    The server gets one value of a metric at each step: a point at or before the last step that it has is skipped.
    """

    def __init__(self, opener: Opener) -> None:
        self.server_run: ServerRun | None = None
        self.is_refused = False
        """Whether the server refused to open the run, so that nothing is sent."""
        self.is_complete = False
        """Whether the server has everything, the end of the run included."""
        self._opener = opener
        self._is_reachable = True
        self._calls: dict[str, Call] = {}
        self._queue: deque[Point] = deque()
        self._num_dropped = 0
        self._refused: set[tuple[str, str]] = set()
        """Run and name of each metric that the server refuses."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._last_call: Call | None = None
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-sender", daemon=True)

    def start(self) -> None:
        """Open the run, now or once the server responds.

        Raises:
            InputError: the server refuses.
        """
        try:
            self.server_run = self._opener.open()
        except UnavailableError as error:
            self._note_absence(error)
        except InputError:
            self.is_refused = True
            raise
        self._thread.start()
        self._wake.set()

    def call(self, name: str, call: Call) -> None:
        """Make a call, now or once the server responds; of waiting calls with one name, only the last is made."""
        run = self.server_run
        if run is None or not self._is_reachable or self._calls or not self._try(name, call, run):
            self.call_later(name, call)

    def call_later(self, name: str, call: Call) -> None:
        """Make a call in the background, before the queued metrics are sent."""
        if self.is_refused:
            return
        with self._lock:
            self._calls.pop(name, None)
            self._calls[name] = call
        self._wake.set()

    def send(self, points: Sequence[Point]) -> None:
        """Queue metrics without blocking; once 200,000 wait, newer ones are dropped and counted."""
        if self.is_refused:
            return
        with self._lock:
            num_free = max(0, MAX_QUEUED_METRICS - len(self._queue))
            self._num_dropped += max(0, len(points) - num_free)
            self._queue.extend(points[:num_free])
        self._wake.set()

    def send_missing(self, run: ServerRun, points: Sequence[Point]) -> None:
        """Send those of many points that the server lacks now; to be used in a call."""
        run.last_steps.update(last_steps(run.client.get_run(run.run_id)))
        self._log_all(run, points)

    def send_to_others(self, run: ServerRun, tags: Mapping[str, str], points: Sequence[Point]) -> None:
        """Send points to every run of the experiment with all these tags; to be used in a call."""
        for run_id in find_all_in_experiment(run.client, run.experiment_id, tags):
            self._log_all(ServerRun(run.client, run_id, run.experiment_id), points)

    def close(self, status: str) -> int:
        """Try for up to 20 s to send the rest and to end the run; returns how many metrics were lost."""
        self._last_call = lambda run: run.client.set_terminated(run.run_id, status)
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        return self._num_dropped + len(self._queue)

    def _send_until_closed(self) -> None:
        last_call = None
        while last_call is None and not self.is_refused:
            self._wake.wait()
            self._wake.clear()
            # Read before sending, so that metrics queued before close() are still sent.
            last_call = self._last_call
            if not self._deliver(last_call) and last_call is None:
                self._pause()

    def _pause(self) -> None:
        """Wait before the next attempt; close() ends the wait early, new metrics do not."""
        until = time.monotonic() + RETRY_S
        while self._last_call is None and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()
        self._wake.set()

    def _deliver(self, last_call: Call | None) -> bool:
        """Open the run and send everything that waits; returns whether nothing is left."""
        try:
            self.server_run = self.server_run or self._opener.open()
        except UnavailableError as error:
            self._note_absence(error)
            return False
        except InputError as error:
            self.is_refused = True
            self._queue.clear()
            warn("this run is not tracked", error)
            return True
        run = self.server_run
        if run is None or not self._make_calls(run) or not self._send_queued(run):
            return False
        self._is_reachable = True
        if last_call is not None:
            self.is_complete = self._try("the end", last_call, run)
        return True

    def _make_calls(self, run: ServerRun) -> bool:
        while self._calls:
            name, call = next(iter(self._calls.items()))
            if not self._try(name, call, run):
                return False
            with self._lock:
                if self._calls.get(name) is call:
                    del self._calls[name]
        return True

    def _try(self, name: str, call: Call, run: ServerRun) -> bool:
        """Make a call; returns whether it is done, because it succeeded or the server refuses it."""
        try:
            call(run)
        except failures() as failure:
            if is_temporary(failure):
                self._note_absence(failure)
                return False
            warn(f"MLflow refuses {name} of run {run.run_id}", failure)
        return True

    def _note_absence(self, failure: Exception) -> None:
        """Warn at the first failure of several."""
        if self._is_reachable:
            warn("MLflow does not respond; what is tracked waits and is sent later", failure)
        self._is_reachable = False

    def _send_queued(self, run: ServerRun) -> bool:
        while self._queue:
            with self._lock:
                batch = list(islice(self._queue, MAX_METRICS_PER_CALL))
            try:
                self._log(run, batch)
            except failures() as failure:
                self._note_absence(failure)
                return False
            with self._lock:
                for _ in batch:
                    self._queue.popleft()
        return True

    def _log_all(self, run: ServerRun, points: Sequence[Point]) -> None:
        for start in range(0, len(points), MAX_METRICS_PER_CALL):
            self._log(run, points[start : start + MAX_METRICS_PER_CALL])

    def _log(self, run: ServerRun, batch: Sequence[Point]) -> None:
        """Log the points that the server lacks, without the metrics that it refuses.

        Raises:
            Exception: a temporary failure, one of `failures()`.
        """
        new = [
            point for point in batch if (run.run_id, point.name) not in self._refused and _is_new(run, point)
        ]
        try:
            _log_batch(run, new)
        except failures() as failure:
            if is_temporary(failure):
                raise
            self._log_accepted(run, new)

    def _log_accepted(self, run: ServerRun, points: Sequence[Point]) -> None:
        """Log metric by metric, and drop those that the server refuses."""
        refused: dict[str, Exception] = {}
        names = sorted({point.name for point in points})
        for name in names:
            try:
                _log_batch(run, [point for point in points if point.name == name])
            except failures() as failure:
                if is_temporary(failure):
                    raise
                refused[name] = failure
        self._refused |= {(run.run_id, name) for name in refused}
        is_every_one = len(refused) == len(names) > 1
        for name, refusal in list(refused.items())[: 1 if is_every_one else None]:
            what = f"every metric of run {run.run_id}" if is_every_one else f"the metric {name}"
            warn(f"MLflow refuses {what}; the run continues without it", refusal)


def _is_new(run: ServerRun, point: Point) -> bool:
    return point.step is None or point.step > run.last_steps.get(point.name, -1)


def _log_batch(run: ServerRun, points: Sequence[Point]) -> None:
    from mlflow.entities import Metric

    if not points:
        return
    metrics = [
        Metric(point.name, point.value, point.time_ms, point.step or 0, model_id=run.model_id)
        for point in points
    ]
    run.client.log_batch(run.run_id, metrics=metrics)
    for point in points:
        if point.step is not None:
            run.last_steps[point.name] = max(point.step, run.last_steps.get(point.name, -1))
