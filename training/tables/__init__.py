"""`fit --table`: a network for the columns of a table."""
