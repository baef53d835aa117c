#!/usr/bin/env bash
# Starts a fresh server with a mount, runs `holdfast bench` against it, and takes everything away again.
# BENCH_DIR is where the drives go (default: a temporary directory); BENCH_ARGS are added to the bench command.
set -euo pipefail
bin=$PWD/bin/holdfast
dir=$(mktemp -d "${BENCH_DIR:-/tmp}/holdfast-bench-XXXXXX")
mkdir "$dir/mnt"
cleanup() {
  status=$?
  [ "$status" = 0 ] || { echo "bench failed ($status); the end of the server's log:" && tail -n 40 "$dir/log"; } >&2
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  mountpoint -q "$dir/mnt" && { fusermount3 -uz "$dir/mnt" || umount -l "$dir/mnt"; }
  rm -rf "$dir"
}
trap cleanup EXIT
"$bin" up --dir "$dir/data" --s3 127.0.0.1:19443 --mount "$dir/mnt" >"$dir/log" 2>&1 &
server=$!
export HOLDFAST_ENDPOINT=http://127.0.0.1:19443
for _ in $(seq 150); do
  "$bin" status --dir "$dir/data" >/dev/null 2>&1 && break
  kill -0 "$server" || exit 1
  sleep 0.2
done
mount=()
for _ in $(seq 50); do # the mount comes a moment after the server
  mountpoint -q "$dir/mnt" && { mount=(--mount "$dir/mnt"); break; }
  [ -e /dev/fuse ] || break
  sleep 0.2
done
"$bin" bench --dir "$dir/data" "${mount[@]}" ${BENCH_ARGS:-}
