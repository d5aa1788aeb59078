"""Start the service for the length of a block, and ask it: for the other programs here."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PORT = os.environ.get("PORT", "3001")


@contextmanager
def serving(repository: str) -> Iterator[str]:
    """Serve the packages of a folder, and yield the address of the service when it is ready."""
    command = [sys.executable, "-P", "-m", "fitserve", "serve", "--port", PORT]
    server = subprocess.Popen([*command, "--repository", repository])
    address = f"http://127.0.0.1:{PORT}"
    try:
        while server.poll() is None:
            try:
                with urllib.request.urlopen(f"{address}/readyz"):
                    break
            except OSError:  # the service is still starting
                time.sleep(0.5)
        else:
            raise SystemExit("the service has ended; its log says why")
        yield address
    finally:
        server.terminate()
        server.wait()


def ask(address: str, model: str, rows: list[Any]) -> list[Any]:
    """Return a model's prediction of each row."""
    body = json.dumps({"instances": rows}).encode()
    request = urllib.request.Request(f"{address}/models/{model}/predict", body)
    with urllib.request.urlopen(request) as response:
        predictions: list[Any] = json.load(response)["predictions"]
    return predictions
