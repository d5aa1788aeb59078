#!/bin/sh
# A typed endpoint and the Open Inference Protocol, with curl.
set -eu
url="${FITSERVE_URL:-http://127.0.0.1:3000}"

# The values of a fitted curve at three places.
curl --fail-with-body -sS "$url/predict_curve" -H 'Content-Type: application/json' \
  -d '{"x": [0, 5, 10.5], "model": "curve-tanh"}'
echo

# The same through the Open Inference Protocol, which KServe, Triton and MLServer speak too.
curl --fail-with-body -sS "$url/v2/models/curve-tanh/infer" -H 'Content-Type: application/json' \
  -d '{"inputs": [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [0, 5, 10.5]}]}'
echo

# What a request needs: the inputs and outputs of a model.
curl --fail-with-body -sS "$url/v2/models/curve-tanh"
echo
