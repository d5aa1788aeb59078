"""fitserve, for those who use it: the command line.

This package imports nothing of `models`, `service` and `training`, whose names may be those of
folders in the user's own project.
"""
