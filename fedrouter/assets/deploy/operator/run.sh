#!/bin/sh
# Starts the run runs/NAME on the server, or goes on with it, and shows its rounds and its loss:
# operator/run.sh NAME. Arguments after the name are added to those of `flwr run`.
set -eu
if [ $# -lt 1 ]; then
  echo "usage: operator/run.sh NAME" >&2
  exit 2
fi
name="$1" here="$(cd "$(dirname "$0")" && pwd)"
shift
"$here/flwr.sh" run "$here/app" fedrouter --stream \
  --run-config "config='run.toml' output='runs/$name'" "$@"
# flwr says nothing of a run that fails but in its log.
if [ ! -e "$here/../server/runs/$name/summary.json" ]; then
  echo "error: runs/$name is not finished; the log above says why, and the same command goes on with it" >&2
  exit 1
fi
