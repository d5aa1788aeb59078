"""A table of shops for `fit --table`: a column of each type, missing values, and known effects."""

from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 500


def shops() -> pd.DataFrame:
    """Return 500 rows whose `sales` are 3 * size + 20 on weekends + 15 in the north + noise."""
    random = np.random.default_rng(0)
    days = pd.date_range("2013-01-01", periods=ROWS)
    frame = pd.DataFrame(
        {
            "day": days.strftime("%Y-%m-%d"),
            "size": random.uniform(5, 50, ROWS).round(2),
            "visitors": random.integers(10, 90, ROWS).astype(object),
            "open": random.random(ROWS) < 0.5,
            "region": random.choice(["north", "south", "west"], ROWS),
        }
    )
    frame["sales"] = (
        3 * frame["size"]
        + 20 * (days.day_of_week >= 5)
        + 15 * (frame["region"] == "north")
        + random.normal(0, 2, ROWS)
    ).round(3)
    frame["grade"] = np.where(frame["sales"] > 90, "good", "poor")
    frame.loc[3:40, "visitors"] = None
    frame.loc[30:60, "region"] = None
    return frame


def write_shops(folder: Path) -> Path:
    """Write the table as a CSV file into `folder`."""
    file = folder / "shops.csv"
    shops().to_csv(file, index=False)
    return file
