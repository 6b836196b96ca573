#!/bin/sh
# Starts a run and follows its log: operator/run.sh PATH/TO/flower_app [-c "KEY=VALUE ..."]
set -eu
app="$1"
shift
exec "$(dirname "$0")/flwr.sh" run "$app" fedrouter --stream "$@"
