#!/bin/bash
# Prints the largest resident set, in KiB, of each module and its runs.
set -euo pipefail

# peak NAME COMMAND...: runs a module and prints the largest resident set of it and of its run, whichever is larger.
peak() {
    local name=$1 most=0 now
    shift
    "$@" >/dev/null &
    local pid=$!
    while kill -0 $pid 2>/dev/null; do
        for p in $pid $(pgrep -f '/var/lib/rewind/bin/rewind-.* journey' || true); do
            now=$(awk '/VmHWM/ { print $2 }' "/proc/$p/status" 2>/dev/null || true)
            [ "${now:-0}" -le "$most" ] || most=$now
        done
    done
    wait $pid
    echo "$name $most"
}
peak lvm_snapshot lvm_snapshot volumes=/dat,/pccehr
peak lvm_merge lvm_merge services=pccehr,postgresql wait=true
