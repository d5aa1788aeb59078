"""What `add` is given: the files of a network, and the rows to try it with."""
