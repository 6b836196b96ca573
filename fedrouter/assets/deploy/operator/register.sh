#!/bin/sh
# Registers nodes' public keys with the SuperLink: operator/register.sh operator/keys/*.pub
set -eu
status=0
for key in "$@"; do
  "$(dirname "$0")/flwr.sh" supernode register "$key" fedrouter --name "$(basename "$key" .pub)" || status=1
done
exit $status
