"""What a model has done since the service started, as the protocol's extension `statistics` has it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import time
from dataclasses import dataclass, field
from typing import Any

from service.batching import BatchReport


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count it `times` times, at so many seconds each."""
        self.count += times
        self.seconds += seconds * times

    def describe(self) -> dict[str, int]:
        """As the protocol writes it."""
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass(slots=True)
class _BatchSize:
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def add(self, report: BatchReport, times: int) -> None:
        self.compute_input.add(report.timings.gather, times)
        self.compute_infer.add(report.timings.compute, times)
        self.compute_output.add(report.timings.split, times)

    def describe(self) -> dict[str, Any]:
        return {
            "compute_input": self.compute_input.describe(),
            "compute_infer": self.compute_infer.describe(),
            "compute_output": self.compute_output.describe(),
        }


class ModelStatistics:
    """The counts of one model. A request counts with its whole batch's compute."""

    def __init__(self) -> None:
        self._success = Duration()
        self._fail = Duration()
        self._queue = Duration()
        self._requests = _BatchSize()
        self._by_rows: dict[int, _BatchSize] = {}
        self._inferences = 0
        self._executions = 0
        self._last_milliseconds = 0

    def failed(self, seconds: float) -> None:
        """Count a request that was not answered."""
        self._fail.add(seconds)

    def executed(self, report: BatchReport) -> None:
        """Count a batch, and the requests that were answered with it."""
        self._executions += 1
        self._last_milliseconds = time.time_ns() // 1_000_000
        answered = len(report.waits)
        self._inferences += report.answered_rows
        self._success.count += answered
        self._success.seconds += report.answered_seconds
        self._queue.count += answered
        self._queue.seconds += sum(report.waits)
        self._requests.add(report, report.requests)
        same = self._by_rows.get(report.rows)
        if same is None:
            same = self._by_rows[report.rows] = _BatchSize()
        same.add(report, 1)

    def describe(self, name: str, version: str) -> dict[str, Any]:
        """The model's entry in `model_stats`."""
        nothing = Duration().describe()
        return {
            "name": name,
            "version": version,
            "last_inference": self._last_milliseconds,
            "inference_count": self._inferences,
            "execution_count": self._executions,
            "inference_stats": {
                "success": self._success.describe(),
                "fail": self._fail.describe(),
                "queue": self._queue.describe(),
                **self._requests.describe(),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [
                {"batch_size": rows, **size.describe()}
                for rows, size in sorted(self._by_rows.items())
            ],
            "memory_usage": [],
        }
