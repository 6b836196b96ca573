#!/bin/sh
# The command flwr with this federation's connection.
set -eu
FLWR_HOME="$(cd "$(dirname "$0")" && pwd)"
export FLWR_HOME FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
exec flwr "$@"
