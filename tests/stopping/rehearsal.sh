#!/usr/bin/env bash
# Stopping across runs as a user sees it, with a small model of experiments/demo_asha.yaml: a sweep with stopping=asha, its
# decisions, a promotion; then the same grid without stopping, and what rules would have made of it. About five minutes.
#   tests/stopping/rehearsal.sh > experiments/results/stopping.txt
set -uo pipefail
cd "$(dirname "$0")/../.."
repository=$PWD scratch=$(mktemp -d)
python=$PWD/.venv/bin/python
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH="$repository:$repository/launch" PYTHONWARNINGS=ignore COLUMNS=110
unset MLFLOW_TRACKING_URI
cd "$scratch"
exec 2>&1

hrm-lab() { "$python" -P -m hrm_lab.cli "$@"; }
export -f hrm-lab
export python
say() { printf '\n# %s\n' "$*"; }
show() {
    printf '$ %s\n' "$*"
    bash -c "$*" 2>&1 | sed -E "s#$scratch/##g; s/\x1b\[[0-9;]*m//g; s/^[0-9]{2}:[0-9]{2}:[0-9]{2} +//; s/[[:space:]]+$//" |
        grep -v ': step [0-9]'
}
small="model.hidden_size=32 model.halt_max_steps=2 data.num_train=500 data.num_test=64 training.global_batch_size=32"

say "Twelve points, compared with their siblings at steps 62, 124 and 248"
show "hrm-lab sweep demo_asha $small stopping.ask_timeout=60"
say "Every decision, in the order of time"
show "hrm-lab decisions demo_asha"
say "The best of those that were stopped goes on from its checkpoint, and is compared again at the next rung"
show "hrm-lab resume demo_asha --promote 1 --dry-run"
show "hrm-lab resume demo_asha --promote 1"
show "hrm-lab decisions demo_asha --stops"
say "The same grid without stopping, and what rules would have made of it"
show "hrm-lab sweep demo_asha $small stopping=none stopping.metric=eval/accuracy name=whole | tail -n 20"
rule="stopping.grace_steps=62 stopping.reduction_factor=2 stopping.min_peers=3"
show "hrm-lab simulate-stopping whole stopping=asha $rule"
show "hrm-lab simulate-stopping whole stopping=none,asha,median,patience"
