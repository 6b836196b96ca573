#!/bin/sh
# Starts the run runs/NAME on the server, or goes on with it, and follows its log:
# operator/run.sh PATH/TO/flower_app NAME
set -eu
app="$1" name="$2"
shift 2
exec "$(dirname "$0")/flwr.sh" run "$app" fedrouter --stream \
  --run-config "config='run.toml' output='runs/$name'" "$@"
