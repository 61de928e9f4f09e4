#!/usr/bin/env bash
# Every kind of hostile input, as a user meets it: each command with what it prints. Needs root for the two small disks.
#   tests/data/hostile.sh > experiments/results/hostile.txt
set -uo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD" PYTHONWARNINGS=ignore
scratch=$(mktemp -d)
export XDG_CACHE_HOME="$scratch/cache"
cd "$scratch"
trap 'umount -l "$scratch/disk" 2>/dev/null; rm -rf "$scratch"' EXIT
exec 2>&1

# What a command prints, without colours, times, endless lines and the name of the scratch folder.
plain() {
    sed -E "s#$scratch/##g; s/\x1b\[[0-9;]*m//g; s/\(?(built|was there already|read as it is): [0-9.]+ s\)?/\1/" |
        cut -c 1-240 | tr -d '\000'
}
say() { printf '\n# %s\n' "$*"; }
show() {
    printf '$ %s\n' "$*" | plain
    timeout 120 bash -c "$*" 2>&1 | plain
    printf 'exit status %s\n' "${PIPESTATUS[0]}"
}

# ---------------------------------------------------------------------------------------------- names
SMALL="data.num_train=40 data.num_test=12"
say "Names that lead elsewhere"
show "hrm-lab data build ../../etc/passwd"
show "hrm-lab data build sudoku_4x4 data.name=../../elsewhere"
show "hrm-lab data build sudoku_4x4 data.name=\$(printf 'x%.0s' {1..300})"

# ---------------------------------------------------------------------------------------------- CSV
ROW='source,question,answer,rating\ns,.234341221434321,1234341221434321,3\n'
CSV="data.source=csv data.num_train=1 data.num_test=1 data.train_csv=bad.csv data.test_csv=good.csv"
printf "$ROW" > good.csv
csv() { # what it is, the command that makes bad.csv
    say "CSV: $1"
    rm -f bad.csv
    printf '$ %s\n' "$2" | plain
    bash -c "$2"
    show "hrm-lab data build sudoku_4x4 $CSV ${3:-}"
}
csv "a line of 1 GB" "printf 'source,question,answer,rating\n' > bad.csv; truncate -s 1G bad.csv"
csv "a bomb: 1 GB of zeros in 1 MB" "head -c 1G /dev/zero | gzip -9 > bad.csv.gz" data.train_csv=bad.csv.gz
csv "a bomb of empty lines" "yes '' | head -c 300M | gzip -9 > bad.csv.gz" data.train_csv=bad.csv.gz
csv "no gzip at all" "cp good.csv bad.csv.gz" data.train_csv=bad.csv.gz
csv "cut off in the middle" "gzip -c good.csv | head -c 60 > bad.csv.gz" data.train_csv=bad.csv.gz
csv "NUL bytes" "printf 'source,question,answer,rating\ns,\0234341221434321,1234341221434321,3\n' > bad.csv"
csv "no UTF-8" "printf '${ROW}s,\xff\n' > bad.csv"
csv "a column that is missing" "printf 'source,question,rating\n' > bad.csv"
csv "a row that is too short" "printf '${ROW}s,.23\n' > bad.csv"
csv "no digit" "printf '${ROW}s,x234341221434321,1234341221434321,3\n' > bad.csv"
csv "a digit twice" "printf '${ROW}s,.234341221434322,1234341221434321,3\n' > bad.csv"
csv "a given that the answer changes" "printf '${ROW}s,2...............,1234341221434321,3\n' > bad.csv"
csv "a rating that is no number" "printf '${ROW}s,.234341221434321,1234341221434321,1e9\n' > bad.csv"
csv "an open quote" "printf '${ROW}s,\"\n' > bad.csv"
csv "a pipe" "mkfifo bad.csv"
csv "a folder" "mkdir bad.csv"; rmdir bad.csv

maze() { # what it is, a row
    say "Mazes in a CSV: $1"
    printf 'source,question,answer,rating\ns,%s,1\n' "$2" > bad.csv
    printf 'source,question,answer,rating\ns,S  ## G  ,Soo##oGoo,1\n' > good.csv
    show "hrm-lab data build maze_10x10 data.source=csv data.rows=3 data.cols=3 data.num_train=1 data.num_test=1 \\
        data.train_csv=bad.csv data.test_csv=good.csv"
}
maze "two starts" "S S## G  ,SoS##oGoo"
maze "no such cell" "S x## G  ,Soo##oGoo"
maze "a way through a wall" "S  ## G  ,S  o# G  "
maze "a way that is not the shortest" "S     G  ,Soo  oGoo"
maze "no way at all" "S  ###G  ,S  ###G  "
rm -f bad.csv good.csv

# ---------------------------------------------------------------------------------------------- ARC
PAIR='{"input": [[1, 2]], "output": [[2, 1]]}'
TASK="{\"train\": [$PAIR], \"test\": [$PAIR]}"
arc() { # what it is, the command that damages it
    say "ARC tasks in a folder: $1"
    rm -rf tasks; mkdir -p tasks/training tasks/evaluation
    for name in training/00000001 evaluation/00000002; do echo "$TASK" > "tasks/$name.json"; done
    show "$2; hrm-lab data build arc_small data.source=folder data.folder=tasks"
}
BAD=tasks/training/00000001.json
arc "no JSON" "echo '{' > $BAD"
arc "lists without an end" "yes '[' | head -n 100000 | tr -d '\n' > $BAD"
arc "1 GB" "truncate -s 1G $BAD"
arc "a grid that is no rectangle" "sed -i 's/\[\[1, 2\]\]/[[1, 2], [3]]/' $BAD"
arc "a colour that is none" "sed -i 's/\[\[1, 2\]\]/[[1, 10]]/' $BAD"
arc "no test" "echo '{\"train\": [$PAIR]}' | sed 's/\\\\//g' > $BAD"
arc "a link that leads out" "ln -sf /etc/passwd $BAD"
arc "the same task twice" "cp $BAD tasks/evaluation/"
rm -rf tasks

# ---------------------------------------------------------------------------------------------- built folders
hrm-lab data build sudoku_4x4 $SMALL >/dev/null
BUILT=$(ls -d data/sudoku_4x4-*)
built() { # what it is, the damage
    say "A built folder: $1"
    cp -r "$BUILT" saved
    show "$2; hrm-lab data build sudoku_4x4 $SMALL"
    rm -rf "$BUILT"; mv saved "$BUILT"
}
NPY="python -c \"import numpy, sys; numpy.save(sys.argv[1], eval(sys.argv[2]), allow_pickle=True)\""
built "half of it" "rm $BUILT/dataset.json"
built "an array cut off" "truncate -s 300 $BUILT/train/inputs.npy"
built "a pickle that would run a command" \
    "python -c \"import pickle; open('$BUILT/train/inputs.npy', 'wb').write(b'cos\\nsystem\\n(S\\\"touch pwned\\\"\\ntR.')\""
show "ls pwned  # had it run"
built "objects" "$NPY $BUILT/train/inputs.npy '[{}]'"
built "a test set's name that leads out" "sed -i 's#\"all\"#\"../../../etc\"#' $BUILT/dataset.json"
built "JSON without an end" "yes '[' | head -n 100000 | tr -d '\n' > $BUILT/dataset.json"
built "1 GB of JSON" "truncate -s 1G $BUILT/dataset.json"
built "a byte that has changed is found by check" \
    "printf '\2' | dd of=$BUILT/train/labels.npy bs=1 seek=140 conv=notrunc status=none; hrm-lab data check sudoku_4x4 $SMALL"

# ---------------------------------------------------------------------------------------------- folders in HRM's format
hrm-lab data export sudoku_4x4 $SMALL data.num_augmentations=3 --out good >/dev/null
folder() { # what it is, the damage
    say "A folder in HRM's format: $1"
    rm -rf hrm; cp -r good hrm
    show "$2; hrm-lab data build hrm_folder data.folder=hrm"
}
folder "none" "rm -r hrm"
folder "a header of 10^9 rows" "python -c \"
import numpy
with open('hrm/train/all__inputs.npy', 'wb') as file:
    numpy.lib.format.write_array_header_1_0(file, {'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 16)})\""
folder "objects" "$NPY hrm/train/all__labels.npy '[{}]'"
folder "an array cut off" "truncate -s 300 hrm/train/all__labels.npy"
folder "a zip archive" "printf 'PK\3\4' > hrm/train/all__inputs.npy"
folder "tokens outside the vocabulary" "$NPY hrm/train/all__inputs.npy 'numpy.full((160, 16), 300)'"
folder "offsets that fall" "$NPY hrm/train/all__group_indices.npy 'numpy.arange(41)[::-1] * 4'"
folder "a set's name that leads out" "sed -i 's#\"all\"#\"../../../etc/x\"#' hrm/test/dataset.json"
folder "a link that leads out" "ln -sf /etc/passwd hrm/train/all__inputs.npy"
folder "a pipe" "rm hrm/train/all__inputs.npy; mkfifo hrm/train/all__inputs.npy"
folder "groups that are not there" "sed -i 's/\"total_groups\": 40/\"total_groups\": 4000/' hrm/train/dataset.json"
folder "a vocabulary of a billion" "sed -i 's/\"vocab_size\": 6/\"vocab_size\": 1000000000/' hrm/train/dataset.json"
say "A folder in HRM's format: variants of variants"
show "hrm-lab data build hrm_folder data.folder=good data.num_augmentations=10"

# ---------------------------------------------------------------------------------------------- disks
say "A full disk"
mkdir -p disk && mount -t tmpfs -o size=2m tmpfs disk || exit 1
show "hrm-lab data export sudoku_4x4 $SMALL data.num_augmentations=3000 --out disk/full; ls -A disk"
show "dd if=/dev/zero of=disk/other bs=1k count=2000 status=none; hrm-lab data build sudoku_4x4 data.num_train=1000 paths.data=disk/data; ls disk/data"
rm -f disk/other
say "A read-only disk"
mount -o remount,ro disk
show "hrm-lab data build sudoku_4x4 paths.data=disk/other"
show "hrm-lab data export sudoku_4x4 $SMALL --out disk/other"
