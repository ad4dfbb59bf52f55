#!/bin/bash
# What runs on each machine of the slice. setup.sh copies it to ~/promptcot; the other scripts call it there.
#
# Use:    bash promptcot/on_worker.sh install SOURCE | start RUN promptcot-arguments... | state | stop | follow
# Files:  ~/promptcot/run/ holds of the run: id, pid, log, exit (code and time; absent while it runs).
# Tested: tests/tpu_scripts/. Not yet on a TPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
run=$PWD/run
PATH=$HOME/.local/bin:$PATH
# The tests play these two.
lock_file=${PROMPTCOT_LIBTPU_LOCK:-/tmp/libtpu_lockfile}
devices=${PROMPTCOT_DEVICES:-/dev}

# The runtime images bring Python 3.10, the package wants 3.11 or newer: uv fetches one of its own, without apt, whose
# lock the first boot may hold for minutes. $1: a requirement for uv, or a file that was copied here.
install() {
  local what=$1 stamp
  stamp="$what $(cksum "$what" 2> /dev/null || true)"
  if [ "$(cat installed 2> /dev/null)" = "$stamp" ]; then return; fi
  command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  rm -f installed
  [ -x venv/bin/python ] || uv venv --quiet --python 3.12 venv
  [[ $what == git+* ]] || what=file://$PWD/$what
  uv pip install --quiet --python venv/bin/python --reinstall-package promptcot_jax "promptcot_jax[tpu,gcs] @ $what"
  echo "$stamp" > installed
}

# Processes that still hold the chips, and the lock a killed process leaves: the next start would wait for either.
clean() {
  local holders
  holders=$(sudo find /proc/[0-9]*/fd \( -lname "$devices/accel*" -o -lname "$devices/vfio/*" \) 2> /dev/null |
    cut -d/ -f3 | sort -u || true)
  # shellcheck disable=SC2086 # one word each
  [ -z "$holders" ] || sudo kill -KILL $holders 2> /dev/null || true
  sudo rm -f "$lock_file"
}

is_running() { [ -e "$run/pid" ] && [ ! -e "$run/exit" ] && kill -0 "$(cat "$run/pid")" 2> /dev/null; }

# $1: id of the run, the rest: what promptcot is called with
start() {
  local name
  if is_running; then
    echo "run $(cat "$run/id") is going on; stop.sh ends it"
    exit 1
  fi
  clean
  mkdir -p "$run"
  if [ -e "$run/log" ]; then mv "$run/log" "$run/log.previous"; fi
  rm -f "$run/exit" "$run/pid"
  echo "$1" > "$run/id"
  # An address of the slice before would be waited for; the new one's are in the machine's metadata.
  for name in $(compgen -e MEGASCALE_ || true); do unset "$name"; done
  export PYTHONUNBUFFERED=1
  # In a session of its own, so that it outlives the ssh and is stopped as one.
  setsid bash "$PWD/on_worker.sh" supervise "${@:2}" > "$run/log" 2>&1 < /dev/null &
  for _ in {1..50}; do
    [ -e "$run/pid" ] && return
    sleep 0.1
  done
  echo "the run did not start within 5 s"
  exit 1
}

supervise() {
  local code=0
  echo $$ > "$run/pid"
  venv/bin/promptcot "$@" || code=$?
  echo "$code $(date +%s)" > "$run/exit.new"
  mv "$run/exit.new" "$run/exit"
}

# One line: STATE CODE WHEN RUN LAST-LOG-LINE
state() {
  local what=none result="- -"
  if [ -e "$run/exit" ]; then
    what=exited result=$(cat "$run/exit")
  elif is_running; then
    what=running
  elif [ -e "$run/pid" ]; then
    what=dead
  fi
  echo "promptcot-state=$what $result $(cat "$run/id" 2> /dev/null || echo -) $(tail -n 1 "$run/log" 2> /dev/null | tr -d '\r' | cut -c1-300)"
}

stop() {
  if is_running; then
    # The session's leader notes the exit code; its children get the notice and ten seconds, as the cloud gives.
    pkill -TERM -s "$(cat "$run/pid")" -P "$(cat "$run/pid")" || true
    for _ in {1..100}; do
      is_running || break
      sleep 0.1
    done
    pkill -KILL -s "$(cat "$run/pid")" || true
  fi
  clean
}

follow() {
  tail -n 50 -F "$run/log" 2> /dev/null | sed -u "s/^/$(hostname): /"
}

"$@"
