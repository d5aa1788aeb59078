"""Train a PyTorch network, export it, make a package of it, serve it and ask it."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import nn

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


def export(network: nn.Module, file: Path) -> None:
    """Write the network as ONNX, with a batch of any size and the weights inside."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 2),),
        file,
        input_names=["point"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def ask(points: list[list[float]]) -> list[str]:
    """Return the most probable class of each point."""
    shape, data = [len(points), 2], [number for point in points for number in point]
    tensor = {"name": "point", "shape": shape, "datatype": "FP32", "data": data}
    output = {"name": "probabilities", "parameters": {"classification": 1}}
    body = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    url = f"http://127.0.0.1:{PORT}/v2/models/circle/infer"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        classes: list[str] = json.load(response)["outputs"][0]["data"]
    return [text.split(":")[-1] for text in classes]


def main() -> None:
    """Do it, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(train(), folder / "circle.onnx")
        rows = np.random.default_rng(0).uniform(-2, 2, (64, 2)).astype(np.float32)
        np.savez(folder / "rows.npz", point=rows)
        fitserve = [Path(sys.executable).with_name("fitserve")]
        options = ["--onnx", folder / "circle.onnx", "--sample", folder / "rows.npz"]
        labels = ["--label", "outside", "inside"]
        repository = ["--repository", folder / "models"]
        subprocess.run([*fitserve, "add", "circle", *options, *labels, *repository], check=True)
        server = subprocess.Popen([*fitserve, "serve", "--port", PORT, *repository])
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
