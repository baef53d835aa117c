#!/usr/bin/env bash
# Installs the client programs that the tests drive, where they are missing and we may.
# What stays missing is named; the tests that need it then fail with the same words.
set -euo pipefail
declare -A package=(
  [/usr/bin/aws]=awscli [s3cmd]=s3cmd [rclone]=rclone [restic]=restic [fusermount3]=fuse3 [rsync]=rsync [fio]=fio
  [sqlite3]=sqlite3 [getfattr]=attr [git]=git [tar]=tar
)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null 2>&1 || missing+=("${package[$program]}")
done
/usr/bin/python3 -c 'import boto3' 2>/dev/null || missing+=(python3-boto3)
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root=(sudo -n); else
    echo "setup: please install as root: apt-get install ${missing[*]}" >&2
    exit 0
  fi
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q >/dev/null
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
