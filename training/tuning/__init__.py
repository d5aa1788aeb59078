"""`tune`: the search for hyperparameters."""
