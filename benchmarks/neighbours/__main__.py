"""`python -m benchmarks.neighbours`: run the attacks, and print the table."""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.neighbours.attacks import ATTACKS
from benchmarks.neighbours.report import content, render
from benchmarks.neighbours.rounds import AttackResult, Cores, Settings, measure
from benchmarks.serving.environments import versions
from benchmarks.serving.machine import machine
from benchmarks.serving.servers import FITSERVE
from service.settings import ROOT

LIBRARIES = (*FITSERVE.libraries, "pillow", "orjson", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run. Return 0, 1 if an attack was not measured, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbours",
        description="Measure what one caller of the service does to the waits of the others.",
    )
    add = parser.add_argument
    add(
        "--only", action="append", choices=ATTACKS, metavar="NAME",
        help=f"an attack; may be repeated (default: all: {'; '.join(ATTACKS)})",
    )  # fmt: skip
    add("--rounds", type=int, help="quiet and attacked rounds of each attack (default: 3)")
    add("--seconds", type=float, help="seconds of each round (default: 5)")
    add("--recovery-seconds", type=float, help="until the last look at the memory (default: 60)")
    add("--quick", action="store_true", help="1 round of 2 s, and 2 s of recovery by default")
    add("--checkout", type=Path, default=ROOT, help="folder of the served version (default: this)")
    add("--json", type=Path, metavar="FILE", help="write every round to this file")
    options = parser.parse_args(arguments)
    rounds, seconds, recovery = (1, 2.0, 2.0) if options.quick else (3, 5.0, 60.0)
    settings = Settings(
        rounds=rounds if options.rounds is None else options.rounds,
        seconds=seconds if options.seconds is None else options.seconds,
        recovery_seconds=(
            recovery if options.recovery_seconds is None else options.recovery_seconds
        ),
        checkout=options.checkout.resolve(),
    )
    if settings.rounds < 1 or settings.seconds < 1 or settings.recovery_seconds < 0:
        parser.error("--rounds and --seconds must be 1 or more, --recovery-seconds 0 or more")
    if not (settings.checkout / "service").is_dir():
        parser.error("--checkout must be a folder with the service")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server is stopped

    shared = Cores.here().server is None
    conditions = {
        **machine(),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "recovery_seconds": settings.recovery_seconds,
        "commit": _commit(settings.checkout),
        **versions(Path(sys.prefix), LIBRARIES),
    }
    results: list[AttackResult] = []
    try:
        for result in measure([ATTACKS[name] for name in options.only or ATTACKS], settings):
            results.append(result)
            print(f"{result.attack}: {result.failure or _line(result)}", flush=True)
            if options.json is not None:  # after each attack: an interrupted run keeps its results
                options.json.write_text(json.dumps(content(results, conditions), indent=1) + "\n")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"\n{render(results, conditions, shared_cores=shared)}")
    return 1 if any(result.failure for result in results) else 0


def _line(result: AttackResult) -> str:
    longest = max(round_.longest_ms for round_ in result.rounds if round_.attacked)
    return f"longest wait {longest:,.0f} ms, memory {result.memory_mb['peak']:,.0f} MB"


def _commit(checkout: Path) -> str:
    """Return the commit of a checkout, or `unknown`."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return completed.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
