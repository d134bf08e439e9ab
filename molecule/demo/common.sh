# shellcheck shell=bash
# What both demonstrations use. Sourced from the repository's root.
guest=demo
release=${LAB:-d12}
config=build/lab/$guest/ssh_config
export PATH=$PWD/build/venv/bin:$PATH
export ANSIBLE_LIBRARY=build/bin/linux_amd64 ANSIBLE_PIPELINING=1 ANSIBLE_CALLBACK_RESULT_FORMAT=yaml
export ANSIBLE_PYTHON_INTERPRETER=auto_silent ANSIBLE_LOCALHOST_WARNING=False

# fresh_table NAME: where this demonstration keeps what it measures.
fresh_table() {
    out=build/demo/$1
    rm -rf "$out"
    mkdir -p "$out"
}

bold() { printf '\n\e[1m%s\e[0m\n' "$*"; }

# step WHAT COMMAND...: runs it under a headline and remembers how long it took.
step() {
    local what=$1 start=${EPOCHREALTIME/./}
    shift
    bold "== $what"
    "$@"
    printf '%-58s %6.1f s\n' "$what" "$(((${EPOCHREALTIME/./} - start) / 100000))e-1" >>"$out/times"
}

# row WHAT LINE MEASUREMENT...: one line of the table, a column for each measurement.
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

# there FILE: runs this folder's FILE on the server.
there() { ssh -F "$config" $guest bash -s <"molecule/demo/$1"; }
command_there() { ssh -F "$config" $guest "$1"; }
measure() { there measure.sh | tee "$out/$1"; }

play() {
    ansible-playbook -i "$guest," -e "ansible_ssh_common_args='-F $config'" "$@"
}

fresh_server() {
    molecule/lab/lab down $guest
    molecule/lab/lab up $guest --from "$release"
}
