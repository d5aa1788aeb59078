#!/usr/bin/env bash
# Write the libraries of a lock, and the version of fitserve, as CycloneDX JSON.
set -euo pipefail

lock=$(realpath "${1:?"usage: sbom.sh LOCK FILE"}")
mkdir -p "$(dirname "${2:?"usage: sbom.sh LOCK FILE"}")"
file=$(realpath "$2")
cd "$(dirname "$0")/../.."
bin=${VENV:-.venv}/bin

# The version is in the code; cyclonedx-bom looks for it in pyproject.toml.
version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' service/settings.py)
project=$(mktemp)
trap 'rm -f "$project"' EXIT
sed "s/^dynamic = \[\"version\"\]/version = \"$version\"/" pyproject.toml > "$project"
"$bin/python" -W ignore -m cyclonedx_py requirements --pyproject "$project" \
  --output-reproducible --of JSON -o "$file" "$lock"
