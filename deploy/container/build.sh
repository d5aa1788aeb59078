#!/usr/bin/env bash
# Build the image of one flavour, gpu or cpu, from a bento, and write the list of its libraries.
# `make image` sets the variables that this script reads; README.md describes them.
set -euo pipefail
cd "$(dirname "$0")/../.."

flavour=${1:?"usage: build.sh gpu|cpu"}
case $flavour in
  gpu) lock=requirements/serve.txt ;;
  cpu) lock=requirements/cpu.txt ;;
  *) echo "error: the flavour is gpu or cpu, not $flavour" >&2; exit 2 ;;
esac
bin=${VENV:-.venv}/bin
image=${IMAGE:-fitserve:$flavour}
python=${IMAGE_PYTHON:-3.13}
base=${BASE:-docker.io/library/python:$python-slim}
sbom=${SBOM:-dist/fitserve-$flavour.cdx.json}
read -ra flags <<< "${BUILD_FLAGS:-}"
if [ -z "${BUILDER:-}" ]; then
  for BUILDER in docker podman buildah; do "$BUILDER" info &> /dev/null && break; done
fi
"$BUILDER" info > /dev/null \
  || { echo "error: an image needs docker, podman or buildah, and none of them works" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tag=$(BENTOML_HOME=$work "$bin/bentoml" build --output tag | sed -n 's/^__tag__://p')
context=$work/bentos/${tag/://}
cp deploy/container/healthcheck.py "$context/"

# The lock covers every platform; the image installs only the part for its own platform.
machine=$(uname -m)
"$bin/uv" pip compile -q --generate-hashes --no-deps --no-annotate --no-header --no-emit-index-url \
  --python-version "$python" --python-platform "${machine/arm64/aarch64}-manylinux_2_28" \
  "$lock" -o "$context/requirements.txt"
sed -n '/^uv==/,/[^\\]$/p' requirements/all.txt > "$context/uv.txt"
deploy/container/sbom.sh "$context/requirements.txt" "$sbom"

label() { flags+=(--label "org.opencontainers.image.$1=$2"); }
label version "$(sed -n 's/^VERSION = "\(.*\)"/\1/p' service/settings.py)"
label revision "$(git rev-parse HEAD 2> /dev/null || echo unknown)"
label source "${SOURCE:-unknown}"
label base.name "$base"
# The OCI format has no health check.
[ "$BUILDER" = docker ] || flags+=(--format docker)

"$BUILDER" build "${flags[@]}" -f deploy/container/Dockerfile -t "$image" \
  --build-arg BASE="$base" \
  ${INDEX:+--build-arg INDEX="$INDEX"} \
  "$context"
echo "$image is built from $tag; $sbom lists its libraries"
