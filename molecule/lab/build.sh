# shellcheck shell=bash
# The cache of images: finds an image, has it made once, and removes old ones. image.sh makes it.

readonly MIRROR=${REWIND_LAB_MIRROR:-http://deb.debian.org/debian}

# image_key RELEASE ACCEL: prints a hash over everything that an image depends on.
image_key() {
    {
        echo "$1 $2 $(suite_of "$1")"
        "$QEMU" --version
        grep -m1 '^model name' /proc/cpuinfo
        cd "$HERE"
        find machine.sh image.sh guest -type f ! -name 'packages.*' -print0 | LC_ALL=C sort -z |
            xargs -0 sha256sum
        sha256sum "guest/packages.$1"
    } | sha256sum | cut -c1-12
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --preserve-env=http_proxy,https_proxy,no_proxy "$@"; fi
}

# build RELEASE: sets IMAGE, the directory of the image in the cache, and ACCEL. Makes the image if it is not there.
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

# clear_unfinished RELEASE: removes the directory that a killed build has left, and ends its QEMU. The caller has the
# build lock.
clear_unfinished() {
    local dir
    for dir in "$CACHE/unfinished-$1-"*; do
        [[ -d $dir ]] || continue
        end_machine "$dir"
        as_root rm -rf --one-file-system "$dir"
    done
}

# remove_old RELEASE: removes the images with other keys, unless a guest runs on one or was started from it in the
# last two hours. The latter is because a guest whose power was cut has no lock, but its disk still needs the image.
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

# stage WORDS...: prints a line for a stage, with the time since the build began.
stage() {
    say "$(printf '%s: %4d s  %s' "$RELEASE" "$((SECONDS - BUILD_START))" "$*")"
    echo "=== $*" >>"$LOG"
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
    as_root rm -rf --one-file-system "$BUILD_DIR" ${BUILD_RUN:+"$BUILD_RUN"}
    exit "$1"
}
