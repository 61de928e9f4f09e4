#!/usr/bin/env bash
# One sweep and everything that can happen to it, on the cluster of `make cluster-up`, as a transcript:
#   tests/slurm/rehearsal.sh [FOLDER] > experiments/results/slurm_rehearsal.txt
# A 2x3 grid of real trainings; its last learning rate is absurd, so two points are broken on purpose.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$(mktemp -d)}
eval "$("$repository/launch/slurm/cluster.sh" env)"
export PATH=$repository/.venv/bin:$PATH MLFLOW_TRACKING_URI=http://10.99.0.1:5088 COLUMNS=150
cd "$folder"

say() { printf '\n# %s\n' "$*"; }
run() { { printf '\n$ %s\n' "$*"; "$@" 2>&1; } | sed -E "s#$folder#FOLDER#g; s#$repository#REPO#g; s/[[:space:]]+$//"; }
job_of() { squeue -h -r -n "$(squeue -h -o %j | head -1)" -t RUNNING -o '%i %N' | sed -n "$1p"; }
until_status() { # WORDS...: until `hrm-lab status` shows them
    for _ in $(seq 240); do
        hrm-lab status rehearsal 2>/dev/null | grep -Eq "$1" && return
        sleep 1
    done
    echo "never saw: $1"; exit 1
}

hrm-lab server --host 10.99.0.1 --port 5088 > server.log 2>&1 &
server=$!
trap 'kill $server; scancel --me' EXIT
until curl -fs "$MLFLOW_TRACKING_URI/health" >/dev/null; do sleep 0.5; done
export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD
MLFLOW_TRACKING_PASSWORD=$(cat outputs/server/admin_password)

grid=(model.H_cycles=1,2 optim.lr=1e-3,2e-3,1e38 hydra.sweeper.params=null)
recipe=(name=rehearsal "question=What does a sweep survive?" training.epochs=30 training.checkpoint_interval=50)
recipe+=(hydra.launcher.cpus_per_task=4 hydra.launcher.gres=gpu:1)   # a node for each task, and a fake GPU

say "What would be done?"
run hrm-lab sweep demo --on slurm_dev "${grid[@]}" "${recipe[@]}" --dry-run
say "Submit, and walk away."
run hrm-lab sweep demo --on slurm_dev "${grid[@]}" "${recipe[@]}"
until_status '[1-6] RUNNING'
sleep 8
run hrm-lab status rehearsal

read -r task _ <<< "$(job_of 1)"
say "Somebody requeues task $task."
run scontrol requeue "$task"
read -r _ node <<< "$(job_of 1)"
say "$node dies with everything on it."
run "$repository/launch/slurm/cluster.sh" node kill "${node#node}"
until_status 'PREEMPTED'
run hrm-lab status rehearsal
until_status '2 FAILED'
"$repository/launch/slurm/cluster.sh" node up "${node#node}"
say "Both broken points have failed; the rest goes on. Now the whole sweep is cancelled."
run hrm-lab status rehearsal
run hrm-lab cancel rehearsal
run hrm-lab status rehearsal
say "And resumed: each point goes on from its checkpoint, with the code that was submitted."
run hrm-lab resume rehearsal
until_status '4 COMPLETED'
run hrm-lab status rehearsal
run hrm-lab compare rehearsal
run hrm-lab sweeps

say "What MLflow holds: every step of every metric once, in order."
run python - <<'PY'
from pathlib import Path

from hrm_lab.config import TrackingConfig
from hrm_lab.manifest import load_manifest
from hrm_lab.tracking.store import Store

store = Store.open(TrackingConfig(), Path("outputs"))
for entry, folder in load_manifest(Path("outputs"), "rehearsal").runs():
    steps = [step for step, _ in store.history(folder.run_id, "train/lm_loss")]
    (record,) = store.runs([folder.run_id])
    attempts = folder.attempts.all()
    whole = steps == list(range(20, 20 * len(steps) + 1, 20))
    print(f"{entry.label:26s} {record.status:9s} {len(steps):3d} points of train/lm_loss, the last at step "
          f"{steps[-1] if steps else '-'}, {'no gap, none twice' if whole else 'NOT WHOLE'}; "
          f"{len(attempts)} attempts on {', '.join(a.host for a in attempts)}")
PY
