"""Measure requests/s and latency percentiles under concurrent clients.

`--workers N` starts a service of N worker processes of its own; by default the one at FITSERVE_URL
is asked.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [5.0]}]}
PATH = "/v2/models/curve-tanh/infer"


async def client(url: str, until: float, seconds: list[float]) -> None:
    """Send one request after another until a time, and note how long each takes."""
    async with httpx.AsyncClient(base_url=url) as session:
        while time.monotonic() < until:
            started = time.monotonic()
            (await session.post(PATH, json=BODY)).raise_for_status()
            seconds.append(time.monotonic() - started)


async def measure(url: str, clients: int, duration: float) -> None:
    """Print the throughput and the latency with this number of clients."""
    seconds: list[float] = []
    until = time.monotonic() + duration
    await asyncio.gather(*(client(url, until, seconds) for _ in range(clients)))
    p50, p99 = (
        1e3 * statistics.quantiles(seconds, n=100)[percentile - 1] for percentile in (50, 99)
    )
    print(
        f"{clients} clients: {len(seconds) / duration:,.0f} requests/s, "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    )


@contextlib.contextmanager
def service(workers: int, port: int) -> Iterator[str]:
    """Run a service of several worker processes, each with every model."""
    environment = {
        **os.environ,
        "BENTOML_CONFIG_OPTIONS": f"services.fitserve.workers={workers}",
    }
    command = [Path(sys.executable).with_name("fitserve"), "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description="Measure a running service.")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, help="start a service with this number of workers")
    parser.add_argument("--port", type=int, default=3001, help="of that service")
    options = parser.parse_args()
    if options.workers is None:
        url = os.environ.get("FITSERVE_URL", "http://127.0.0.1:3000")
        asyncio.run(measure(url, options.clients, options.seconds))
        return
    with service(options.workers, options.port) as url:
        asyncio.run(measure(url, options.clients, options.seconds))


if __name__ == "__main__":
    main()
