# shellcheck shell=bash
# What both demonstrations have in common. They source it, and their working directory is the repository's root.
guest=demo
. molecule/lib/guest.sh
export ANSIBLE_LIBRARY=build/bin/linux_amd64 ANSIBLE_PIPELINING=1 ANSIBLE_CALLBACK_RESULT_FORMAT=yaml

# fresh_table NAME: makes an empty directory, out, in which a demonstration keeps what it measures.
fresh_table() {
    out=build/demo/$1
    rm -rf "$out"
    mkdir -p "$out"
}

bold() { printf '\n\e[1m%s\e[0m\n' "$*"; }

# step WHAT COMMAND...: prints a headline, runs the command, and writes down how long that took.
step() {
    local what=$1 start=${EPOCHREALTIME/./}
    shift
    bold "== $what"
    "$@"
    printf '%-58s %6.1f s\n' "$what" "$(((${EPOCHREALTIME/./} - start) / 100000))e-1" >>"$out/times"
}

# row WHAT LINE MEASUREMENT...: prints a row of the table. Each measurement is a file and has a column for its line
# LINE.
row() {
    local what=$1 line=$2 when
    shift 2
    printf '%-22s' "$what"
    for when in "$@"; do printf ' %-18s' "$(sed -n "${line}p" "$out/$when")"; done
    echo
}

times() {
    bold "How long each step took"
    cat "$out/times"
}

# measure FILE: prints what measure.sh finds on the server, and writes it to a file.
measure() { run_script molecule/demo/measure.sh | tee "$out/$1"; }
