#!/bin/sh
# Starts Flower's SuperLink on %{listen}:%{link_port}. Arguments are added to its own.
set -eu
cd "$(dirname "$0")"
umask 077
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
exec flower-superlink \
  --host %{listen} --port %{link_port} \
  --ssl-ca-certfile ca.crt --ssl-certfile server.crt --ssl-keyfile server.key \
  --enable-supernode-auth --database superlink.db \
  --disable-runtime-dependency-installation "$@"
