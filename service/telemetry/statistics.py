"""Statistics of a model since the start of the service, for the protocol's extension `statistics`.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from service.batching.batch import Timings
from service.batching.batcher import BatchReport


@dataclass(slots=True)
class Duration:
    """A count of events, and their total duration."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Add `times` events that took `seconds` in total."""
        self.count += times
        self.seconds += seconds

    def to_json(self) -> dict[str, int]:
        """Return the duration as the protocol writes it."""
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass(slots=True)
class _Computed:
    """A count of batches or requests, and the total durations of the parts of their batches."""

    count: int = 0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    def add(self, timings: Timings, times: int) -> None:
        self.count += times
        self.compute_input += timings.compute_input * times
        self.compute_infer += timings.compute_infer * times
        self.compute_output += timings.compute_output * times

    def to_json(self) -> dict[str, Any]:
        return {
            "compute_input": Duration(self.count, self.compute_input).to_json(),
            "compute_infer": Duration(self.count, self.compute_infer).to_json(),
            "compute_output": Duration(self.count, self.compute_output).to_json(),
        }


class ModelStatistics:
    """The statistics of one model. Each request counts the compute of its whole batch."""

    def __init__(self) -> None:
        self._success = Duration()
        self._fail = Duration()
        self._queue = Duration()
        self._requests = _Computed()
        self._by_rows: defaultdict[int, _Computed] = defaultdict(_Computed)
        self._inferences = 0
        self._last_milliseconds = 0

    def failed(self, seconds: float) -> None:
        """Count a request that failed."""
        self._fail.add(seconds)

    def executed(self, report: BatchReport) -> None:
        """Count a batch and its successful requests."""
        self._last_milliseconds = time.time_ns() // 1_000_000
        self._inferences += report.answered_rows
        self._success.add(report.answered_seconds, len(report.waits))
        self._queue.add(sum(report.waits), len(report.waits))
        self._requests.add(report.timings, report.requests)
        self._by_rows[report.rows].add(report.timings, 1)

    def to_json(self, name: str, version: str) -> dict[str, Any]:
        """Return the model's entry in `model_stats`."""
        nothing = Duration().to_json()
        return {
            "name": name,
            "version": version,
            "last_inference": self._last_milliseconds,
            "inference_count": self._inferences,
            "execution_count": sum(size.count for size in self._by_rows.values()),
            "inference_stats": {
                "success": self._success.to_json(),
                "fail": self._fail.to_json(),
                "queue": self._queue.to_json(),
                **self._requests.to_json(),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [
                {"batch_size": rows, **size.to_json()}
                for rows, size in sorted(self._by_rows.items())
            ],
            "memory_usage": [],
        }
