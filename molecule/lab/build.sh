# shellcheck shell=bash
# Building an image: a root file system, its first boot, and the saved state of a running guest.

readonly MIRROR=${REWIND_LAB_MIRROR:-http://deb.debian.org/debian}

suite_of() {
    case $1 in
        d12) echo bookworm ;;
        d13) echo trixie ;;
        *) fail "no such guest: $1 (d12 or d13)" ;;
    esac
}

# image_key RELEASE ACCEL: a hash over everything that makes the image what it is.
image_key() {
    {
        echo "$1 $2 $(suite_of "$1")"
        "$QEMU" --version
        grep -m1 '^model name' /proc/cpuinfo
        cd "$HERE"
        find machine.sh build.sh guest -type f ! -name 'packages.*' -print0 | LC_ALL=C sort -z |
            xargs -0 sha256sum
        sha256sum "guest/packages.$1"
    } | sha256sum | cut -c1-12
}

packages_of() {
    sed 's/#.*//' "$HERE/guest/packages" "$HERE/guest/packages.$1" | xargs -n1
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --preserve-env=http_proxy,https_proxy,no_proxy "$@"; fi
}

# build RELEASE: sets IMAGE, the directory of the image in the cache, made now if it is not there.
build() {
    local release=$1 accel key
    accel=$(accelerator)
    key=$(image_key "$release" "$accel")
    IMAGE=$CACHE/$release-$key ACCEL=$accel
    [[ -e $IMAGE/complete ]] && return
    mkdir -p "$CACHE"
    exec {BUILD_LOCK}>>"$CACHE/$release.build-lock"
    if ! flock -n "$BUILD_LOCK"; then
        say "$release: another build is running; waiting for it"
        flock "$BUILD_LOCK"
    fi
    if [[ ! -e $IMAGE/complete ]]; then
        clear_unfinished "$release"
        (make_image "$release" "$CACHE/unfinished-$release-$key")
        remove_old "$release"
    fi
    exec {BUILD_LOCK}>&-
}

# A build that was killed leaves its directory, and perhaps its QEMU. We hold the build lock.
clear_unfinished() {
    local dir
    for dir in "$CACHE/unfinished-$1-"*; do
        [[ -d $dir ]] || continue
        end_machine "$dir"
        as_root rm -rf --one-file-system "$dir"
    done
}

# Images of other keys that no guest runs on, and that none was started from lately: an instance
# whose power was cut holds no lock, yet its disk still rests on its image.
remove_old() {
    local dir lock
    for dir in "$CACHE/$1-"*/; do
        dir=${dir%/}
        [[ $dir != "$IMAGE" && -e $dir/lock && -z $(find "$dir/lock" -mmin -120) ]] || continue
        exec {lock}<"$dir/lock"
        if flock -n "$lock"; then rm -rf --one-file-system "$dir"; fi
        exec {lock}<&-
    done
}

stage() { # WORDS...: one line for each stage, with the time since the build began
    say "$(printf '%s: %4d s  %s' "$RELEASE" "$((SECONDS - BUILD_START))" "$*")"
    echo "=== $*" >>"$LOG"
}

make_image() { # RELEASE DIR; runs in a subshell, whose exit is trapped
    local dir=$2 run monitor_socket
    RELEASE=$1 BUILD_START=$SECONDS BUILD_DIR=$2 LOG=$CACHE/$1.build.log
    : >"$LOG"
    trap 'build_failed $?' EXIT
    mkdir -p "$dir"
    ssh-keygen -q -t ecdsa -N '' -C rewind-lab -f "$dir/key"

    stage "packages ($(suite_of "$RELEASE"), from $MIRROR); log: $LOG"
    mapfile -t packages < <(packages_of "$RELEASE")
    as_root "$HERE/guest/make-image" "$(suite_of "$RELEASE")" "$MIRROR" "$dir" \
        "$(id -u):$(id -g)" "${packages[@]}" >>"$LOG" 2>&1

    stage "first boot ($ACCEL)"
    run=$(socket_dir)
    monitor_socket=$run/monitor
    truncate -s "$MEMORY" "$dir/memory"
    mapfile -t args < <(machine_args "$ACCEL" "$dir"
        memory_args "$dir/memory" on
        disk_args "$dir/disk.raw" raw cache=unsafe,discard=unmap,detect-zeroes=unmap
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
    rm -r "$run"
    rm -f "$dir"/{port,ssh_config,qemu.pid,key.pub}
    chmod a-w "$dir"/{disk.raw,state,vmlinuz,initrd} # not memory: QEMU opens it for writing, and maps it privately
    : >"$dir/lock"
    : >"$dir/complete"
    sync -f "$dir"
    mv -T "$dir" "$IMAGE"
    trap - EXIT
    stage "ready: $(du -sh "$IMAGE" | cut -f1) in $IMAGE"
}

build_failed() { # RC
    end_machine "$BUILD_DIR" || true
    say "$RELEASE: the build failed; the end of $LOG:"
    tail -n 30 "$LOG" >&2
    if [[ -s $BUILD_DIR/console.log ]]; then
        cp "$BUILD_DIR/console.log" "$LOG.console"
        say "and of the guest's console, $LOG.console:"
        tail -n 10 "$LOG.console" >&2
    fi
    as_root rm -rf --one-file-system "$BUILD_DIR"
    exit "$1"
}
