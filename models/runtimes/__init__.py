"""What computes the files of a package: ONNX Runtime and torch, on a CPU or a GPU."""
