"""`fit --track`: the epochs of a run, for other tools."""
