#!/bin/sh
# Starts nginx on port %{port} as the gate before the SuperLink; see gate.conf.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p gate-temp
exec nginx -e stderr -p "$PWD" -c gate.conf
