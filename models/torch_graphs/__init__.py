"""What a file of torch does to the rows of a batch, read from its graph."""
