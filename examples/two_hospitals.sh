#!/bin/sh
# Two hospitals and a server on this machine, with TLS and a key for each hospital: each process has
# only its own folder, and no row leaves it. About two minutes on two CPU cores.
#
#     examples/two_hospitals.sh NEW_FOLDER
#
# Needs the extra flower and its programs on the PATH. On machines of their own the same commands
# are run on each; docs/deploy.md explains them, and why --direct is for a trusted network only.
set -eu
port="${PORT:-8000}"
folder="$1"

started=""
trap 'for pid in $started; do kill "$pid" 2>/dev/null || true; done; wait' EXIT
trap 'exit 130' INT TERM

# 1. The operator writes the files of the federation; --direct: no gate (nginx), for this trial.
fedrouter deploy init "$folder" --nodes 2 --host localhost --port "$port" --direct
cd "$folder"
cat >server/run.toml <<'EOF'
mode = "paper"  # few exchanges: on each, every node starts a process

[model]
template = "{instruction}\n"

[federation]
clients = 2
rounds = 2

[clustering]
n_local = 2    # kinds of prompts that a hospital has
n_global = 3   # kinds of prompts that there are; both hospitals have one of them

[training]
steps = 20
batch_size = 8
lr = 8e-3
EOF

# 2. Each hospital has its own rows. These are made up.
python - <<'EOF'
import json
from pathlib import Path

from fedrouter.data.builtin import builtin_rows

rows, _ = builtin_rows(per_task_train=80, per_task_test=1)
for hospital, tasks in (("node-1", ("urgency", "dates")), ("node-2", ("urgency", "facts"))):
    own = [{"instruction": r.instruction, "response": r.response} for r in rows if r.task in tasks]
    text = "".join(json.dumps(row) + "\n" for row in own)
    Path(hospital, "data.jsonl").write_text(text, encoding="utf-8")
EOF

# 3. The server starts, and the operator registers the hospitals' public keys.
server/superlink.sh >server.log 2>&1 &
started="$started $!"
until operator/flwr.sh supernode list >/dev/null 2>&1; do
  kill -0 "$!" || { cat server.log >&2; exit 1; }
  sleep 1
done
operator/register.sh operator/keys/*.pub

# 4. The hospitals connect. Two nodes on one machine need different internal ports.
for number in 1 2; do
  "node-$number/start.sh" --port "$((port + 10 + number))" >"node-$number.log" 2>&1 &
  started="$started $!"
done
until [ "$(operator/flwr.sh supernode list --format=json | grep -c '"online"')" -eq 2 ]; do
  sleep 1
done

# 5. The operator runs, and reads what came out.
operator/run.sh first
fedrouter tasks server/runs/first
fedrouter generate server/runs/first "Mrs Barnes was born on 6 April 2007." \
  "[09:30] @nadia >> #help >> everything has stopped here ... the printer is on fire"
