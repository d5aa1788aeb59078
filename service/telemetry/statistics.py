"""What a model has done since the service started, as the protocol's extension `statistics` has it.

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
    """How often something was done, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count it so many times more, which took so many seconds together."""
        self.count += times
        self.seconds += seconds

    def describe(self) -> dict[str, int]:
        """As the protocol writes it."""
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass(slots=True)
class _Computed:
    """How often something was in a batch, and how long the parts of those batches took."""

    count: int = 0
    gather: float = 0.0
    compute: float = 0.0
    split: float = 0.0

    def add(self, timings: Timings, times: int) -> None:
        self.count += times
        self.gather += timings.gather * times
        self.compute += timings.compute * times
        self.split += timings.split * times

    def describe(self) -> dict[str, Any]:
        return {
            "compute_input": Duration(self.count, self.gather).describe(),
            "compute_infer": Duration(self.count, self.compute).describe(),
            "compute_output": Duration(self.count, self.split).describe(),
        }


class ModelStatistics:
    """The counts of one model. A request counts with its whole batch's compute."""

    def __init__(self) -> None:
        self._success = Duration()
        self._fail = Duration()
        self._queue = Duration()
        self._requests = _Computed()
        self._by_rows: defaultdict[int, _Computed] = defaultdict(_Computed)
        self._inferences = 0
        self._last_milliseconds = 0

    def failed(self, seconds: float) -> None:
        """Count a request that was not answered."""
        self._fail.add(seconds)

    def executed(self, report: BatchReport) -> None:
        """Count a batch, and the requests that were answered with it."""
        self._last_milliseconds = time.time_ns() // 1_000_000
        self._inferences += report.answered_rows
        self._success.add(report.answered_seconds, len(report.waits))
        self._queue.add(sum(report.waits), len(report.waits))
        self._requests.add(report.timings, report.requests)
        self._by_rows[report.rows].add(report.timings, 1)

    def describe(self, name: str, version: str) -> dict[str, Any]:
        """The model's entry in `model_stats`."""
        nothing = Duration().describe()
        return {
            "name": name,
            "version": version,
            "last_inference": self._last_milliseconds,
            "inference_count": self._inferences,
            "execution_count": sum(size.count for size in self._by_rows.values()),
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
