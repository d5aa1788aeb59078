"""The service's log. It stands under BentoML's, to share its handlers and its level."""

import logging
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

logger = logging.getLogger("bentoml.fitserve")

# What BentoML writes into every record, our request's id overwritten with its own.
_BENTOML = ("levelname_bracketed", "component", "trace_msg", "service_name", "request_id")


def set_up_log(log_format: Literal["console", "json"]) -> None:
    """Write every line of this process once: ours, BentoML's and uvicorn's.

    In JSON, a line is an object with `time`, `level`, `logger`, `message`, and what it is about.
    """
    logging.getLogger("uvicorn.error").propagate = False  # it has the root's handler itself
    if log_format == "console":
        return
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        rename_fields={
            "asctime": "time",
            "levelname": "level",
            "name": "logger",
            "exchange_id": "request_id",
        },
        reserved_attrs=[*RESERVED_ATTRS, *_BENTOML],
    )
    for name in (None, "bentoml", "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
            handler.filters.clear()  # BentoML's puts a request id of its own in place of ours
