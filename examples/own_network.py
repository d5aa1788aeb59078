"""Train a PyTorch network, make a package of it, serve it and ask it."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

import torch
from torch import nn

import fitserve

PORT = os.environ.get("PORT", "3001")


def train() -> nn.Module:
    """Train a network that tells whether a point is inside the unit circle."""
    torch.manual_seed(0)
    points = 4 * torch.rand(2_000, 2) - 2
    inside = (points.norm(dim=1) < 1).long()
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(points), inside).backward()
        optimizer.step()
    return nn.Sequential(network, nn.Softmax(dim=1)).eval()


def ask(points: list[list[float]]) -> list[str]:
    """Return the most probable class of each point."""
    url = f"http://127.0.0.1:{PORT}/models/circle/predict"
    request = urllib.request.Request(url, json.dumps({"instances": points}).encode())
    with urllib.request.urlopen(request) as response:
        return [prediction["label"] for prediction in json.load(response)["predictions"]]


def main() -> None:
    """Do it, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        sample, labels = 4 * torch.rand(64, 2) - 2, ["outside", "inside"]
        fitserve.save("circle", train(), sample, labels=labels, repository=name)
        command = [sys.executable, "-P", "-m", "fitserve", "serve", "--port", PORT]
        server = subprocess.Popen([*command, "--repository", name])
        try:
            points = [[0.0, 0.0], [0.5, -0.5], [1.5, 1.5]]
            for point, answer in zip(points, _when_ready(server, points), strict=True):
                print(point, "is", answer)
        finally:
            server.terminate()
            server.wait()


def _when_ready(server: subprocess.Popen[bytes], points: list[list[float]]) -> list[str]:
    while server.poll() is None:
        try:
            return ask(points)
        except OSError:  # the service is still starting
            time.sleep(0.5)
    raise SystemExit("the service has ended; its log says why")


if __name__ == "__main__":
    main()
