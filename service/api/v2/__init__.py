"""The Open Inference Protocol (V2) over HTTP: https://github.com/kserve/open-inference-protocol."""
