#!/usr/bin/env bash
# Every kind of damage, as a user meets it: each command with what it prints. Needs root for the two small disks.
#   tests/faults/damage.sh > experiments/results/damage.txt
set -uo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONWARNINGS=ignore
scratch=$(mktemp -d)
cd "$scratch"
trap 'umount -l "$scratch/disk" 2>/dev/null; rm -rf "$scratch"' EXIT
exec 2>&1

CONFIG="+experiment=demo tracking=none data.num_test=32 training.epochs=4 training.eval_interval=2"
CONFIG+=" training.checkpoint_interval=5"

# What a command prints, without times, colours and the name of the scratch folder.
plain() {
    sed -E "s#$scratch/##g; s/\x1b\[[0-9;]*m//g; s/^[0-9:]{8} +//"
}
say() { printf '\n# %s\n' "$*"; }
show() {
    printf '$ %s\n' "$*" | plain
    bash -c "$*" 2>&1 | plain
    return "${PIPESTATUS[0]}"
}
# A training that is killed after step 45 of 62; its checkpoints are those of the steps 40 and 45, and of the best.
train_and_kill() {
    hrm-lab train $CONFIG "$@" >/dev/null 2>&1 &
    local job=$! place="outputs"
    for word in "$@"; do [[ $word == paths.outputs=* ]] && place=${word#*=}; done
    until ls -d "$place"/runs/*/checkpoints/step_00000045 >/dev/null 2>&1; do
        sleep 0.02
        kill -0 $job 2>/dev/null || { echo "the training ended too early"; exit 1; }
    done
    kill -9 $job
    wait $job 2>/dev/null
    cd "$(ls -d "$place"/runs/*)" && RUN=$PWD && cd "$scratch" && RUN=${RUN#"$scratch"/}
    NEWEST=$(ls -d "$RUN"/checkpoints/step_* | tail -n 1)
}
afresh() { rm -rf outputs; train_and_kill; }

hrm-lab data build sudoku_4x4 $CONFIG >/dev/null
export CONFIG

say "Truncated file"
afresh
show "truncate -s 1000 $NEWEST/*.safetensors; ls $RUN/checkpoints"
show "hrm-lab train \$CONFIG"
show "ls $RUN/checkpoints"

say "Flipped byte"
afresh
show "printf X | dd of=\$(ls $NEWEST/*.safetensors) bs=1 seek=5000 conv=notrunc status=none"
show "hrm-lab train \$CONFIG"

say "Missing shard"
afresh
show "rm $NEWEST/*.safetensors"
show "hrm-lab train \$CONFIG"

say "All of them damaged"
afresh
show "for file in $RUN/checkpoints/step_*/*.safetensors; do truncate -s 1000 \$file; done"
show "hrm-lab train \$CONFIG"; echo "exit status $?"
show "ls $RUN/checkpoints"

say "Two processes in one run folder"
rm -rf outputs
hrm-lab train $CONFIG >/dev/null 2>&1 &
until ls -d outputs/runs/*/checkpoints/step_* >/dev/null 2>&1; do sleep 0.05; done
show "hrm-lab train \$CONFIG"; echo "exit status $?"
wait

say "A full disk: 24 MB, of which something else takes what is left"
mkdir -p disk
mount -t tmpfs -o size=24m tmpfs disk || exit 1
train_and_kill paths.outputs=disk/outputs
show "dd if=/dev/zero of=disk/other bs=1k count=\$(( \$(df --output=avail disk | tail -n 1) - 3000 )) status=none; df -h disk | tail -n 1"
show "hrm-lab train \$CONFIG paths.outputs=disk/outputs"; echo "exit status $?"
show "ls $RUN/checkpoints; rm disk/other"
show "hrm-lab train \$CONFIG paths.outputs=disk/outputs"; echo "exit status $?"
rm -rf disk/outputs

say "A read-only folder"
train_and_kill paths.outputs=disk/outputs
show "mount -o remount,ro $scratch/disk"
show "hrm-lab train \$CONFIG paths.outputs=disk/outputs"; echo "exit status $?"
show "mount -o remount,rw $scratch/disk"
show "hrm-lab train \$CONFIG paths.outputs=disk/outputs"; echo "exit status $?"
