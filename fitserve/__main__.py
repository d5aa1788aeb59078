"""The entry point of `python -m fitserve`, which is the command `fitserve`."""

from fitserve.command_line import main

main()
