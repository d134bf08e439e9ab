# shellcheck shell=bash
# Starts and ends a virtual machine, and talks to it.

QEMU=$(command -v qemu-system-x86_64 || true)

# accelerator prints kvm if the processor has it and a boot sector really runs with it, else tcg, which is emulation.
# REWIND_LAB_ACCEL=tcg or kvm overrides that.
accelerator() {
    if [[ -n ${REWIND_LAB_ACCEL:-} ]]; then
        echo "$REWIND_LAB_ACCEL"
    elif grep -qwE 'vmx|svm' /proc/cpuinfo && [[ -w /dev/kvm ]] && kvm_boots; then
        echo kvm
    else
        echo tcg
    fi
}

# kvm_boots runs a boot sector that writes 16 to a debug port, at which QEMU exits with 16*2+1.
kvm_boots() {
    local sector rc=0
    sector=$(mktemp)
    printf '\xb0\x10\xe6\xf4\xf4' >"$sector"
    truncate -s 510 "$sector"
    printf '\x55\xaa' >>"$sector"
    timeout 15 "$QEMU" -accel kvm -machine q35 -m 32M -nodefaults -display none \
        -device isa-debug-exit,iobase=0xf4,iosize=4 \
        -drive "file=$sector,format=raw,if=ide" </dev/null >/dev/null 2>&1 || rc=$?
    rm -f "$sector"
    ((rc == 33))
}

# is_machine PID DIR: succeeds if PID is the QEMU that was started with its pid file in DIR.
is_machine() {
    local arguments=()
    [[ $1 =~ ^[0-9]+$ && -r /proc/$1/cmdline ]] || return 1
    mapfile -d '' -t arguments <"/proc/$1/cmdline" 2>/dev/null || return 1
    [[ ${arguments[0]:-} == *qemu-system-x86_64 ]] || return 1
    printf '%s\n' "${arguments[@]}" | grep -qxF "$2/qemu.pid"
}

machine_pid() { # DIR: prints the pid of its running QEMU, or fails
    local pid
    [[ -r $1/qemu.pid ]] && pid=$(<"$1/qemu.pid") && is_machine "$pid" "$1" && echo "$pid"
}

# end_machine DIR: sends SIGKILL to the QEMU of DIR, if there is one, and waits until it has ended.
end_machine() {
    local pid n
    pid=$(machine_pid "$1") || return 0
    kill -KILL "$pid" 2>/dev/null || true
    for ((n = 0; n < 600; n++)); do
        if has_ended "$pid"; then
            rm -f "$1/qemu.pid"
            return 0
        fi
        sleep 0.05
    done
    fail "QEMU $pid of $1 does not end"
}

# has_ended PID: succeeds if a process has ended. A process that is ending frees its memory, and with that its command
# line, long before the lock on its disk. Everything is freed when it is a zombie and its last thread has ended.
has_ended() {
    local state tasks
    { read -r _ _ state _ <"/proc/$1/stat"; } 2>/dev/null || return 0
    [[ $state == [ZX] ]] || return 1
    tasks=("/proc/$1/task/"*)
    ((${#tasks[@]} <= 1))
}

# start_machine DIR [ARG...]: starts QEMU in the background, with a free port of 127.0.0.1 for ssh: that of the last
# start, if it is still free. Writes DIR/port and DIR/ssh_config.
start_machine() {
    local dir=$1 port='' try message
    shift
    if [[ -r $dir/port ]]; then port=$(<"$dir/port"); fi
    for ((try = 0; try < 50; try++)); do
        port=${port:-$((20000 + SRANDOM % 12000))}
        mapfile -t net < <(net_args "$port")
        if message=$("$QEMU" "$@" "${net[@]}" -daemonize -pidfile "$dir/qemu.pid" \
            2>&1 </dev/null); then
            echo "$port" >"$dir/port"
            ssh_config "$dir" "$port"
            return 0
        fi
        case $message in
            *"host forwarding rule"*) port= ;;   # the port is taken
            *'"write" lock'*) sleep 0.2 ;;       # a QEMU that somebody else has killed has not ended yet
            *) break ;;
        esac
    done
    fail "QEMU does not start: $message"
}

ssh_config() { # DIR PORT
    cat >"$1/ssh_config" <<CONFIG
Host lab ${1##*/}
    HostName 127.0.0.1
    Port $2
    User root
    IdentityFile "$1/key"
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    ConnectTimeout 60
    # No shared connections: a ControlPersist master keeps the caller's pipes open.
    ControlMaster no
    ControlPath none
CONFIG
}

# in_guest DIR COMMAND...: runs a command in the guest.
in_guest() {
    local dir=$1
    shift
    ssh -F "$dir/ssh_config" lab "$@"
}

# wait_for_guest DIR SECONDS [COMMAND]: waits until COMMAND, which gets some random bytes on stdin, succeeds over ssh.
# Fails if the guest's kernel has panicked or QEMU has ended. Ends the script after SECONDS.
wait_for_guest() {
    local dir=$1 deadline=$((SECONDS + $2)) command=${3:-true}
    until head -c 64 /dev/urandom |
        ssh -F "$dir/ssh_config" -o ConnectTimeout=5 lab "$command" >/dev/null 2>&1; do
        if ! machine_pid "$dir" >/dev/null; then
            say "the guest's QEMU has ended; its console: $dir/console.log"
            return 1
        fi
        if grep -qs 'Kernel panic - not syncing' "$dir/console.log"; then
            say "the guest's kernel has panicked; its console: $dir/console.log"
            return 1
        fi
        ((SECONDS < deadline)) || fail "no answer by ssh after $2 s; the console, $dir/console.log, ends with:
$(tail -c 2000 "$dir/console.log")"
        sleep 0.2
    done
}

# monitor SOCKET COMMAND...: gives commands to QEMU's monitor and prints its answers.
monitor() {
    local socket=$1
    shift
    printf '%s\n' "$@" | socat -t 10 - "UNIX-CONNECT:$socket"
}

# save_state SOCKET FILE and load_state SOCKET FILE: save and load the state of a machine without its memory, which is
# in a file of its own.
save_state() {
    monitor "$1" "migrate_set_capability x-ignore-shared on" \
        "migrate $(exec_uri "cat >" "$2")" "info migrate"
}

load_state() {
    monitor "$1" "migrate_set_capability x-ignore-shared on" \
        "migrate_incoming $(exec_uri "cat " "$2")"
}

# exec_uri COMMAND FILE: prints the two, quoted for the shell and then for the monitor.
exec_uri() {
    printf '"exec:%s"' "$(printf '%s%q' "$1" "$2" | sed 's/[\\"]/\\&/g')"
}
