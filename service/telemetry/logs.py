"""The log of the service, a child of BentoML's logger, with its handlers and level."""

import logging
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

logger = logging.getLogger("bentoml.fitserve")


def set_up_log(log_format: Literal["console", "json"]) -> None:
    """Write each line of this process once: ours, BentoML's and uvicorn's.

    In JSON, a line is an object with `time`, `level`, `logger`, `message` and extra fields.
    """
    logging.getLogger("uvicorn.error").propagate = False  # it has the root's handler itself
    if log_format == "console":
        return
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )
    for name in (None, "bentoml", "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
            handler.filters.clear()  # BentoML's filter overwrites our `request_id`
