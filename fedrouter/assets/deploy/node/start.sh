#!/bin/sh
# Starts this node: Flower's SuperNode. Arguments are added to its own; two nodes on one machine
# need different ports: ./start.sh --port 9095
set -eu
cd "$(dirname "$0")"
umask 077
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
exec flower-supernode \
  --superlink %{host}:%{port} --root-certificates ca.crt \
  --auth-supernode-private-key node.key --node-config node.toml "$@"
