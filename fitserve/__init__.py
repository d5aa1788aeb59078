"""fitserve, for those who use it: `save`, and the command line.

This package imports nothing of `models`, `service` and `training`, whose names may be those of
folders in the user's own project. It imports no library of networks before a network is given.
"""

from fitserve.exported import ExportError
from fitserve.pictures import Picture
from fitserve.saving import SaveError, save

__all__ = ["ExportError", "Picture", "SaveError", "save"]
