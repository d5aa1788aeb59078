"""`deploy/README.md` is correct: its numbers match the benchmarks, and its commands run."""

import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_kubernetes import VERSIONS

from benchmarks.serving.payloads import V2_JSON, images
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "deploy" / "README.md").read_text()
REPORT = (ROOT / "benchmarks" / "README.md").read_text()


def measured(pattern: str) -> float:
    (found,) = re.findall(pattern, REPORT)
    return float(found.replace(",", ""))


SUSTAINED = measured(r"\| fitserve, V2 JSON \| 300 s \| [\d,]+ \| ([\d,]+) \|")
_AT_64 = REPORT.split("| 64 connections |")[1]
_ROW = re.findall(r"\| fitserve, V2 JSON \| ([\d,]+) \(.*?\| ([\d.]+) \(\S+ to \S+\) \|\n", _AT_64)
PEAK, CORES = float(_ROW[0][0].replace(",", "")), float(_ROW[0][1])
REST = measured(r"\| fitserve, ONNX Runtime alone \| (\d+) \(")
BODY = float(np.mean([len(V2_JSON.body(image[None])) for image in images()]))


@pytest.mark.parametrize("rate", [10, 1_000, 100_000])
def test_the_arithmetic_follows_from_the_benchmarks(rate: int) -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {rate:,} |"))
    _, workers, pods, cores, asked, rest, network = (
        cell.strip() for cell in line.strip("|").split("|")
    )
    needed = math.ceil(rate / SUSTAINED)
    count = max(2, needed + 1)
    assert int(workers.split()[0]) == needed
    share = re.findall(r"\(([\d.]+)(%?)", workers)[0]
    of_one = rate / SUSTAINED * (100 if share[1] else 1)
    assert float(share[0]) == pytest.approx(of_one, rel=0.05)
    assert (int(pods), int(cores)) == (count, count)
    assert float(asked.removesuffix(" GiB")) == count * 0.5
    assert float(rest.removesuffix(" GB")) == round(count * REST / 1e3, 1)
    assert float(network.removesuffix(" MB/s")) == pytest.approx(rate * BODY / 1e6, rel=0.03)


@pytest.mark.parametrize(
    "shown",
    [
        f"{SUSTAINED:,.0f} requests/s",
        f"peak of {PEAK:,.0f}",
        f"full worker takes {CORES}",
        f"100,000 / {PEAK:,.0f} x {CORES} = {1e5 / PEAK * CORES:.1f} cores",
        f"{REST:.0f} MB with ONNX Runtime alone",
        f"{measured(r'fitserve, with torch . ([0-9]+) .'):.0f} MB with torch",
        f"{BODY:,.0f} bytes",
        f"{measured(r'fitserve, V2 binary . 256 images . ([0-9,]+) '):,.0f} images",
        f"answered {measured(r'requests/s, two workers / one . [^|]+ . ([0-9.]+) x'):g} times",
        f"costs {CORES / PEAK * 1e6 - 6:.0f} µs",
    ],
)
def test_its_numbers_are_those_of_the_benchmarks(shown: str) -> None:
    assert shown in " ".join(PAGE.split())


def test_every_setting_on_the_page_exists() -> None:
    settings = set(re.findall(r"FITSERVE_([A-Z_]+)", PAGE))
    assert settings
    assert {name.lower() for name in settings} <= set(Settings.model_fields)


def test_the_manifests_are_checked_for_the_oldest_kubernetes_on_the_page() -> None:
    (oldest,) = re.findall(r"They need Kubernetes ([\d.]+) or later", PAGE)
    assert oldest == VERSIONS[0]


def test_its_links_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)", PAGE)
    assert targets
    assert [target for target in targets if not (ROOT / "deploy" / target).exists()] == []


def test_the_command_for_the_rules_creates_a_valid_operator_resource() -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith("{ printf"))
    command, _, _ = line.rpartition("| kubectl")
    completed = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wrapped = yaml.safe_load(completed.stdout)
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yml").read_text())
    assert (wrapped["kind"], wrapped["spec"]) == ("PrometheusRule", rules)
