"""The memory that is available, and the memory that a computation takes."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from service import memory

MIB = 2**20


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_the_growth_during_a_computation_is_measured(kept: bool) -> None:
    def compute() -> object:
        arrays = [np.ones(64 * MIB, np.uint8) for _ in range(4)]
        return arrays if kept else len(arrays)

    result, peak, left = memory.measured(compute)
    assert result
    assert 150 * MIB < peak < 300 * MIB
    assert (left > 200 * MIB) if kept else (left < 100 * MIB)


def test_an_error_of_the_computation_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        memory.measured(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        (
            "0::/a/b",
            {"a/memory.max": 500 * MIB, "a/memory.current": 450 * MIB, "a/memory.stat": 10 * MIB}
            | {"a/b/memory.max": "max", "a/b/memory.current": 400 * MIB, "a/b/memory.stat": 0},
        ),
        (
            "0::/outside/of/the/container",
            {"memory.max": 500 * MIB, "memory.current": 450 * MIB, "memory.stat": 10 * MIB},
        ),
        (
            "4:cpu,memory:/a",
            {
                "memory/a/memory.limit_in_bytes": 500 * MIB,
                "memory/a/memory.usage_in_bytes": 450 * MIB,
                "memory/a/memory.stat": 10 * MIB,
            },
        ),
    ],
)
def test_the_limits_of_cgroups_count(
    cgroup: str, files: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "cgroup"
    own.write_text(f"1:name=systemd:/x\n{cgroup}\n")
    for name, value in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = f"anon 5\ninactive_file {value}\ntotal_inactive_file {value}\n"
        file.write_text(text if name.endswith("stat") else f"{value}\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", own)
    assert memory.available_bytes() == 60 * MIB


def test_without_cgroups_the_memory_of_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "none")
    assert 0 < memory.available_bytes() <= psutil.virtual_memory().total
