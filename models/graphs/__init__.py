"""What an ONNX graph does to the rows of a batch, read from the graph."""
