#!/bin/bash
# Installs Python and the package on every machine of the slice, from HEAD of this checkout, a git URL or a wheel.
#
# Use:    bash tpu_scripts/setup.sh [--NAME=VALUE of settings.example ...] [--dry_run]
# Takes:  some minutes on a new slice, seconds where the same source is installed already.
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
need_slice

files=("$here/on_worker.sh")
case $SOURCE in
  "")
    root=$(dirname "$here")
    commit=$(git -C "$root" rev-parse --short=12 HEAD) ||
      wrong_use "$root is no git checkout; say --source=git+https://... or a wheel"
    [ -z "$(git -C "$root" status --porcelain)" ] || say "note: HEAD ($commit) is installed, without what is not committed"
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    what=promptcot_jax-$commit.tar.gz
    files+=("$directory/$what")
    run "$SETUP_SECONDS" git -C "$root" archive "--prefix=${what%.tar.gz}/" "--output=$directory/$what" HEAD
    ;;
  git+*) what=$SOURCE ;;
  *)
    [ -r "$SOURCE" ] || wrong_use "--source=$SOURCE is no file, and no URL that begins with git+"
    what=$(basename "$SOURCE")
    files+=("$SOURCE")
    ;;
esac

say "installing $what on $((HOSTS * NUM_SLICES)) machines"
on_all_or_fail "reaching the machines" "$COMMAND_SECONDS" "mkdir -p promptcot"
while read -r node; do
  provisioner_copy "$node" "${files[@]}" >&2 || fail "copying to $node failed"
done < <(provisioner_nodes)
on_all_or_fail "installation" "$SETUP_SECONDS" "$(worker_command install "$what")"
say "installed"
