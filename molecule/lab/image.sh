# shellcheck shell=bash
# Making an image: a root file system, its first boot, and the saved state of a running guest. This
# file is part of every image's key.

suite_of() {
    case $1 in
        d12) echo bookworm ;;
        d13) echo trixie ;;
        *) fail "no such guest: $1 (d12 or d13)" ;;
    esac
}

packages_of() {
    sed 's/#.*//' "$HERE/guest/packages" "$HERE/guest/packages.$1" | xargs -n1
}

make_image() { # RELEASE DIR; runs in a subshell, whose exit is trapped
    local dir=$2 monitor_socket
    RELEASE=$1 BUILD_START=$SECONDS BUILD_DIR=$2 BUILD_RUN= LOG=$CACHE/$1.build.log
    : >"$LOG"
    trap 'build_failed $?' EXIT
    mkdir -p "$dir"
    ssh-keygen -q -t ecdsa -N '' -C rewind-lab -f "$dir/key"

    stage "packages ($(suite_of "$RELEASE"), from $MIRROR); log: $LOG"
    mapfile -t packages < <(packages_of "$RELEASE")
    as_root "$HERE/guest/make-image" "$(suite_of "$RELEASE")" "$MIRROR" "$dir" \
        "$(id -u):$(id -g)" "${packages[@]}" >>"$LOG" 2>&1

    stage "first boot ($ACCEL)"
    BUILD_RUN=$(socket_dir)
    monitor_socket=$BUILD_RUN/monitor
    truncate -s "$MEMORY" "$dir/memory"
    truncate -s 9220M "$dir/volumes.raw"
    mapfile -t args < <(machine_args "$ACCEL" "$dir"
        memory_args "$dir/memory" on
        disks_args "$dir" raw cache=unsafe
        console_args "$dir/console.log")
    start_machine "$dir" "${args[@]}" -monitor "unix:$monitor_socket,server=on,wait=off" \
        {BUILD_LOCK}>&-
    wait_for_guest "$dir" 600
    in_guest "$dir" bash -s <"$HERE/guest/first-boot" >>"$LOG" 2>&1

    stage "second boot, as a server starts every day"
    local before
    before=$(in_guest "$dir" cat /proc/sys/kernel/random/boot_id)
    in_guest "$dir" systemctl reboot >>"$LOG" 2>&1 || true
    wait_for_guest "$dir" 600 "! grep -q $before /proc/sys/kernel/random/boot_id"
    in_guest "$dir" bash -s <"$HERE/guest/warm" >>"$LOG" 2>&1

    stage "saving the running state"
    save_state "$monitor_socket" "$dir/state" | tee -a "$LOG" |
        grep '^Migration status: completed' >/dev/null
    end_machine "$dir"
    rm -r "$BUILD_RUN"
    rm -f "$dir"/{port,ssh_config,qemu.pid,key.pub}
    chmod a-w "$dir"/{root.raw,volumes.raw,state,vmlinuz,initrd} # not memory: QEMU opens that for writing
    : >"$dir/lock"
    : >"$dir/complete"
    sync -f "$dir"
    mv -T "$dir" "$IMAGE"
    trap - EXIT
    stage "ready: $(du -sh "$IMAGE" | cut -f1) in $IMAGE"
}
