"""The service's log. It stands under BentoML's, to share its handlers and its level."""

import logging

from pythonjsonlogger.json import JsonFormatter

logger = logging.getLogger("bentoml.fitserve")


def log_in_json() -> None:
    """Write every line of this process as one JSON object: ours, BentoML's and uvicorn's.

    Its fields are `time`, `level`, `logger`, `message`, and what the line is about.
    """
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )
    for name in (None, "bentoml", "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
