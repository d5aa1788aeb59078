"""`python -m benchmarks.serving`: run the scenarios, print the tables and write the report."""

import argparse
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from benchmarks.serving.load import LoadError, check_tools
from benchmarks.serving.machine import machine
from benchmarks.serving.report import render, write
from benchmarks.serving.results import Results
from benchmarks.serving.scenarios import SCENARIOS, Settings
from benchmarks.serving.servers import SERVERS, ServerError
from benchmarks.serving.targets import check_targets

FOLDER = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run. Return 0 if every target is met, 1 if a target is missed, 2 without load generators."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description="Measure fitserve and other servers. A run of all scenarios and servers writes "
        "its report to benchmarks/; any other run writes to --output, if given.",
    )
    add = parser.add_argument
    add("--only", type=_names(SCENARIOS), help=f"scenarios (default: {','.join(SCENARIOS)})")
    add("--servers", type=_names(SERVERS), help=f"servers (default: {','.join(SERVERS)})")
    add("--rounds", type=int, default=3, help="rounds of each measurement (default: 3)")
    add("--seconds", type=float, default=5, help="seconds of each measurement (default: 5)")
    add("--warm-up", type=float, default=3, help="seconds of the warm-up (default: 3)")
    add("--soak-seconds", type=float, default=300, help="seconds of the soak (default: 300)")
    add("--output", type=Path, help="folder of the report")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or min(options.seconds, options.warm_up, options.soak_seconds) < 1:
        parser.error("--rounds and all seconds must be 1 or more")
    chosen = options.only or list(SCENARIOS)
    try:
        check_tools(["wrk"] + ["h2load"] * ("soak" in chosen))
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server is stopped

    settings = Settings(
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=options.warm_up,
        soak_seconds=options.soak_seconds,
        servers=options.servers or list(SERVERS),
    )
    results = Results(
        machine(),
        {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "warm_up_seconds": settings.warm_up,
            "soak_seconds": settings.soak_seconds,
        },
    )
    for name in chosen:
        print(f"{name}:", flush=True)
        try:
            SCENARIOS[name](results, settings)
        except (ServerError, LoadError) as error:
            results.failures[name] = str(error)
            print(f"  not measured: {error}")
        except KeyboardInterrupt:
            print("interrupted: nothing is written", file=sys.stderr)
            return 130

    print(f"\n{render(results)}\n")
    output = options.output or (None if options.only or options.servers else FOLDER)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for file in write(results, output):
            print(f"wrote {file}")
    target_results = check_targets(results)
    return 0 if all(result.met for result in target_results) and not results.failures else 1


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names from `known`."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown)}; there are: {', '.join(known)}"
            )
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
