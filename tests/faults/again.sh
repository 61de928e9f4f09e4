#!/usr/bin/env bash
# A run of the demo done again, as a user sees it: as it was, with a stored config and a data file that somebody has
# changed, and with a setting of one's own. Takes about five minutes.
#   tests/faults/again.sh > experiments/results/reproduce.txt
set -uo pipefail
cd "$(dirname "$0")/../.."
repository=$PWD scratch=$(mktemp -d)
python=$PWD/.venv/bin/python
trap 'rm -rf "$scratch"' EXIT
git clone --quiet "$repository" "$scratch/clone"
export PYTHONPATH="$scratch/clone:$scratch/clone/launch" PYTHONWARNINGS=ignore COLUMNS=150
unset MLFLOW_TRACKING_URI
cd "$scratch"
exec 2>&1

hrm-lab() { "$python" -P -m hrm_lab.cli "$@"; }
export -f hrm-lab
export python
say() { printf '\n# %s\n' "$*"; }
show() {
    printf '$ %s\n' "$*"
    bash -c "$*" 2>&1 | sed -E "s#$scratch/##g; s/\x1b\[[0-9;]*m//g; s/^[0-9]{2}:[0-9]{2}:[0-9]{2} +//; s/[[:space:]]+$//"
    echo "exit status ${PIPESTATUS[0]}"
}
artifact() { # NAME PATH: an artifact's file in the store of this folder
    "$python" - "$@" <<'PY'
import sys
from pathlib import Path

from hrm_lab.config import TrackingConfig
from hrm_lab.tracking.store import Store

(record,) = Store.open(TrackingConfig(), Path("outputs")).find(sys.argv[1])
print(f"outputs/artifacts/{record.run_id}/artifacts/{sys.argv[2]}")
PY
}

say "A run of the demo, and the same once more"
show "hrm-lab train +experiment=demo"
show "hrm-lab reproduce demo"

say "The same, but"
show "hrm-lab reproduce demo --steps 100 --set optim.lr=1e-3"

say "Somebody has changed a hyper-parameter in the stored config"
config=$(artifact demo config/config.yaml)
show "sed -i 's/lr_warmup_steps: 50/lr_warmup_steps: 60/' $config"
show "hrm-lab reproduce demo --steps 100"
show "sed -i 's/lr_warmup_steps: 60/lr_warmup_steps: 50/; s/  H_cycles:/  G_cycles:/' $config"
show "hrm-lab reproduce demo --steps 100"

say "Somebody has changed a data file"
"$python" - <<'PY'
from pathlib import Path

import numpy as np

from hrm_lab.compose import compose_config
from hrm_lab.data.build import ensure_dataset

dataset = ensure_dataset(compose_config(["data=sudoku_4x4"]).data, "data")
for name, split in (("train", dataset.train), ("test", next(iter(dataset.test.values())))):
    rows = ["source,question,answer,rating"]
    for puzzle, solution in zip(split.inputs[:200], split.labels[:200], strict=True):
        question, answer = ("".join(str(token - 1) for token in np.asarray(board)) for board in (puzzle, solution))
        rows.append(f"demo,{question.replace('0', '.')},{answer},0")
    Path(f"{name}.csv").write_text("\n".join(rows) + "\n")
PY
csv="data.source=csv data.train_csv=train.csv data.test_csv=test.csv data.num_train=null data.num_test=null"
show "hrm-lab train +experiment=demo $csv name=from_csv"
show "sed -i '\$d' train.csv"
show "hrm-lab reproduce from_csv"
