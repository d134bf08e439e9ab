#!/bin/bash
# Prints the milliseconds of two lvcreate -s on their own, one for each volume.
set -euo pipefail
start=${EPOCHREALTIME/./}
lvcreate -qq -L 100M -s -n bench_dat vg00/dat
lvcreate -qq -L 100M -s -n bench_pccehr vg00/pccehr
echo $(((${EPOCHREALTIME/./} - start) / 1000))
lvremove -qq -y vg00/bench_dat vg00/bench_pccehr
