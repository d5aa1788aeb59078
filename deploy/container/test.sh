#!/usr/bin/env bash
# Build the cpu image on a Debian made by debootstrap, run it, and send requests; without an engine.
#
# Requires root, buildah, debootstrap, a Debian mirror, a package index, and the requirements of
# `make image`. The container runs as its own user, on a read-only root file system. The script
# prints its checks, and removes all its files.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
most=700 # MB

for program in buildah debootstrap unshare pgrep; do
  command -v "$program" > /dev/null || { echo "skipped: $program is not installed"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: debootstrap and chroot need root"; exit 77; }

work=$(mktemp -d)
runner=
finish() {
  # Killing the runner ends its process namespace, with every process in it.
  if [ -n "$runner" ]; then kill -KILL "$runner" 2> /dev/null || true; wait; fi
  rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM
export CONTAINERS_STORAGE_CONF=$work/storage.conf STORAGE_DRIVER=vfs
export TMPDIR=$work/tmp
mkdir -p "$TMPDIR" "$work/volume"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' \
  "$work/store" "$work/run" > "$CONTAINERS_STORAGE_CONF"
python=$here/../../${VENV:-.venv}/bin/python
case ${VENV:-} in /*) python=$VENV/bin/python ;; esac
say() { echo "$(printf %4d $SECONDS)s $1"; }
check() { # the line to print, and the command that checks it
  if "${@:2}"; then echo "ok    $1"; else echo "WRONG $1"; exit 1; fi
}

say "a Debian base: $suite"
# Mounts of debootstrap are visible to debootstrap only, and so never to `rm`.
unshare --mount debootstrap --variant=minbase --include=python3,ca-certificates "$suite" "$work/base" "$mirror" \
  > "$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }
version=$(chroot "$work/base" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
base=$(buildah from scratch)
buildah add -q "$base" "$work/base" / > /dev/null
buildah commit -q --rm "$base" fitserve-base > /dev/null
rm -rf "$work/base"

say "the image: Python $version"
BUILDER=buildah BASE=localhost/fitserve-base IMAGE=fitserve:cpu IMAGE_PYTHON=$version \
  SBOM=$work/sbom.json BUILD_FLAGS="--isolation chroot --volume /etc/ssl/certs:/etc/ssl/certs:ro" \
  "$here/build.sh" cpu > "$work/log" 2>&1 || { tail -n 40 "$work/log"; exit 1; }

container=$(buildah from fitserve:cpu)
root=$(buildah mount "$container")
size=$(du -s --apparent-size --block-size=1000000 "$root" | cut -f1)
check "its files are $size MB, less than $most" [ "$size" -lt "$most" ]
absent() {
  found=$(find "$root" -xdev \( "$@" \) -not -path '*/var/lib/dpkg/*' -print | head -n 5)
  [ -z "$found" ] || { echo "$found"; return 1; }
}
check "no torch, no CUDA" absent -path '*-packages/torch' -o -path '*-packages/nvidia' \
  -o -name 'libcudart*' -o -name 'libcudnn*' -o -name '*providers_cuda*'
check "no pip, uv, compiler or make" absent -path '*-packages/pip' -o -name ensurepip \
  -o -path '*/bin/uv' -o -path '*/bin/*gcc*' -o -path '*/bin/cc' -o -path '*/bin/make'
check "no caches of pip, uv or apt" absent -path "$root/root/.cache" -o -name '*.whl' \
  -o -path '*/var/lib/apt/lists/*_*' -o -name '*.deb'
listed=$(grep -c '"purl"' "$work/sbom.json")
installed=$(find "$root/opt/venv" -name '*.dist-info' | wc -l)
check "$installed libraries are installed, and $listed listed" [ "$installed" = "$listed" ]

# Do what an engine would do: run the image's own command, as its own user, on a read-only root file
# system, in a process namespace that ends with the command. buildah itself writes in /run, so /run
# is an empty file system owned by root.
of() { buildah inspect --type image --format "{{range .Docker.Config.$1}}{{println .}}{{end}}" fitserve:cpu; }
one() { buildah inspect --type image --format "{{.Docker.Config.$1}}" fitserve:cpu; }
check "its user is $(one User), and it stops on $(one StopSignal)" \
  [ "$(one User) $(one StopSignal)" = "10001:10001 SIGTERM" ]
for label in title version revision source licenses; do
  check "its label $label is there" grep -q "image\.$label:[^ ]" <<< "$(one Labels)"
done
mapfile -t command < <(of Entrypoint; of Cmd)
mapfile -t health < <(of Healthcheck.Test)
chown 10001:10001 "$work/volume"
# A free port, below the range that the kernel gives to clients.
port=$("$python" -c '
import random, socket
for port in random.sample(range(10_000, 32_768), 1000):
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        continue
    print(port)
    break')
run=(buildah run --isolation chroot --volume "$work/volume:/var/lib/fitserve"
  --env "BENTOML_PORT=$port" --env FITSERVE_BODY_TIMEOUT_SECONDS=120 "$container" --)
in_container='mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" \
  && mount -t tmpfs -o mode=755 tmpfs "$0/run" && exec "$@"'
contained=(unshare --mount --pid --fork --kill-child --mount-proc bash -c "$in_container" "$root")

"${contained[@]}" "${run[@]}" sh -c \
  'id -u; for d in / /srv/fitserve /tmp /run; do ! touch $d/x 2> /dev/null || exit 1; done; touch ~/x' \
  > "$work/log" 2>&1 || { cat "$work/log"; echo "WRONG it can write outside its volume"; exit 1; }
check "it runs as $(cat "$work/log") and can write in its volume alone" [ "$(cat "$work/log")" = 10001 ]

say "${command[*]}, on 127.0.0.1 alone"
"${contained[@]}" "${run[@]}" "${command[@]}" --host 127.0.0.1 --port "$port" > "$work/log" 2>&1 &
runner=$!
show_log() { tail -n 20 "$work/log"; exit 1; }
"$python" "$here/ask.py" "$port" || show_log
check "its health check says that it lives" "${run[@]}" "${health[@]:1}"
for server in $(pgrep -u 10001 -x bentoml); do
  ! grep -qzx "$port" "/proc/$server/cmdline" || break
done
"$python" "$here/ask.py" "$port" "$server" || show_log
status=0; wait "$runner" || status=$?
runner=
check "it ended with $status" [ "$status" = 0 ]
not_healthy() { ! "${run[@]}" "${health[@]:1}" 2> /dev/null; }
check "its health check says that it is gone" not_healthy
