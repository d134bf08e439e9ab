#!/bin/bash
# Runs in a guest and prints "NAME VALUE" lines: what a backup and a restore of /dat cost with each backend, with the
# bare tool, and by hand. The values are milliseconds, bytes, or KiB of memory. ROUNDS is how often it measures,
# MEGABYTES how much the larger tree has, FILES the number of small files. With the argument "all" it measures
# everything. With "counted" it measures only the processor time of backups, in a guest that counts instructions.
set -euo pipefail
password=/root/bench.pw
base=/srv/bench # the directory of the repositories

# with BACKEND: sets the array words to the arguments that choose a backend.
with() {
    case $1 in
        mirror) words=("backend_options=path=$base/mirror") ;;
        rsync) words=(backend=rsync "backend_options=path=$base/rsync") ;;
        restic) words=(backend=restic "backend_options=repository=$base/restic,password_file=$password") ;;
    esac
}
bare() { restic -q --repo "$base/bare" --password-file $password "$@"; }
note() { printf '%s %s\n' "$@"; }
now() { echo $((${EPOCHREALTIME/./} / 1000)); }
cold() { sync && echo 3 >/proc/sys/vm/drop_caches; }
bytes_read() { awk '{ printf "%.0f\n", $3 * 512 }' /sys/block/vdb/stat; } # from the disk below the volume groups

# busy: prints the processor time of the whole guest so far, in ms. Nothing else runs in the guest.
busy() { awk '/^cpu / { printf "%.0f\n", ($2 + $3 + $4 + $7 + $8) * 10 }' /proc/stat; } # ticks of 10 ms

# costs NAME COMMAND...: runs the command with cold caches, waits until what it wrote is on the disk, and prints how
# long that took, the processor time, and the bytes read. rsync alone would not wait, and leaves the writing to the
# kernel.
costs() {
    local name=$1 start cpu read
    shift
    cold
    start=$(now) cpu=$(busy) read=$(bytes_read)
    "$@" >/dev/null 2>&1
    sync
    note "$name-ms" $(($(now) - start))
    note "$name-cpu" $(($(busy) - cpu))
    note "$name-read" $(($(bytes_read) - read))
}

# repositories makes empty ones. The two of restic are copies of one: at init restic measures the processor to choose
# how much work the opening of a repository takes, and two repositories of one guest differed by a factor of two.
repositories() {
    rm -rf /var/lib/rewind/jobs # a place that had backups and has none is refused
    mkdir -p "$base"/{mirror,rsync,barersync}
    bare init
    cp -a "$base/bare" "$base/restic"
}

setup() {
    mkdir -p /srv/bench/{mnt,fuse}
    head -c 16 /dev/urandom | base64 >$password
    repositories
    # A cluster of some 430 MB. Its write-ahead log is kept small, else it would be most of that.
    su postgres -c "psql -qc \"alter system set max_wal_size = '64MB'\" \
        -c \"alter system set min_wal_size = '32MB'\" -c 'select pg_reload_conf()'" >/dev/null
    su postgres -c 'createdb bench && pgbench -qi -s 20 bench && psql -qc checkpoint' >/dev/null 2>&1
}

services() { systemctl "$1" postgresql 'postgresql@*'; }
started() { systemctl start postgresql && systemctl -q is-active 'postgresql@*-main.service'; }

# only_set VOLUME: takes, mounts and removes a set without a backup. Its cost is subtracted from that of a backup before
# that is compared with the bare tool, for which a snapshot is already mounted.
only_set() {
    lvm_snapshot name=set "volumes=/$1" state=mounted mountpoint=/srv/bench/set &&
        lvm_snapshot name=set state=absent
}

bare_rsync() {
    local last
    last=$(find "$base/barersync" -mindepth 1 -maxdepth 1 | sort | tail -1)
    rsync -aHAXS --numeric-ids --one-file-system ${last:+--link-dest=$last} \
        /srv/bench/mnt/ "$base/barersync/$(date +%s)/"
}

# mounted VOLUME OPTIONS COMMAND...: runs the command while a snapshot is mounted at /srv/bench/mnt, always the same
# path.
mounted() {
    local volume=$1 options=$2
    shift 2
    lvcreate -qq -L 100M -s -n bench_snap "vg00/$volume"
    mount -o "ro,noatime$options" /dev/vg00/bench_snap /srv/bench/mnt
    "$@"
    umount /srv/bench/mnt
    lvremove -qqy vg00/bench_snap
}

# measure_backup KIND BACKEND VOLUME: measures the set, the backup and the bare tool immediately after each other,
# because the speed of the machine changes.
measure_backup() {
    with "$2"
    costs "$1-$2-set" only_set "$3"
    costs "$1-$2" snap_backup "volumes=/$3" "${words[@]}"
    case $2 in
        rsync) costs "$1-bare-rsync" bare_rsync ;;
        restic) costs "$1-bare-restic" bare backup /srv/bench/mnt ;;
    esac
}

# measure_empty measures a backup without files, which shows the cost that does not depend on the size of the tree.
measure_empty() {
    local base=/srv/bench/empty backend
    repositories
    for backend in mirror rsync restic; do mounted pccehr "" measure_backup empty $backend pccehr; done
    rm -rf "$base"
}

# measure_larger BACKEND...: measures the first backup of a larger tree, and the next one after everything but the
# database has changed.
measure_larger() {
    local base=/srv/bench/larger backend
    for backend; do
        repositories
        mounted dat ,nouuid measure_backup first "$backend" dat
        bulk
        mounted dat ,nouuid measure_backup next "$backend" dat
        rm -rf "$base"
    done
}

# bulk writes files of 1 MiB beside the database.
bulk() {
    mkdir -p /dat/bulk
    for i in $(seq "$MEGABYTES"); do head -c 1M /dev/urandom >"/dat/bulk/$i"; done
}

# store_all makes the backups that are restored later. The restore by hand has a repository of its own.
store_all() {
    local backend
    for backend in mirror rsync restic; do
        with $backend
        snap_backup volumes=/dat "${words[@]}"
    done
    mounted dat ,nouuid bare backup /srv/bench/mnt
}

# differing prints how many bytes are in the 4 KiB blocks of the stored tree that differ from those in /dat.
differing() {
    python3 - "$(find /srv/bench/mirror -maxdepth 3 -name dat -type d | sort | tail -1)" /dat <<'PY'
import os, sys
stored, live = sys.argv[1:]
blocks = 0
for top, _, names in os.walk(stored):
    for name in names:
        a = os.path.join(top, name)
        b = live + a[len(stored):]
        if os.path.islink(a) or not os.path.isfile(a):
            continue
        with open(a, "rb") as x:
            y = open(b, "rb") if os.path.isfile(b) else None
            while block := x.read(4096):
                other = y.read(4096) if y else b""
                blocks += block != other and not (not other and not block.strip(b"\0"))
print(blocks * 4096)
PY
}

# cow_used SNAPSHOT: prints how many bytes of its COW space are used.
cow_used() {
    lvs --noheadings --units b --nosuffix -o lv_size,snap_percent "vg00/$1" | awk '{ printf "%d\n", $1 * $2 / 100 }'
}

measure_restores() {
    note differing "$(differing)"
    for backend in mirror rsync restic; do
        with $backend
        costs restore-$backend snap_backup action=restore volumes=/dat "${words[@]}"
        note "restore-$backend-cow" "$(cow_used dat_restore)"
        lvm_snapshot name=restore state=absent >/dev/null
    done
    measure_by_hand restore-hand -aqP
    measure_by_hand restore-hand-blocks -aq --inplace --no-whole-file -B 4096
}

# measure_by_hand NAME RSYNC-OPTION...
measure_by_hand() {
    costs "$1" by_hand "${@:2}"
    note "$1-cow" "$(cow_used bench_dat)"
    lvremove -qqy vg00/bench_dat
}

# by_hand RSYNC-OPTION...: restores as an administrator does without Rewind: a snapshot, restic mount, rsync, umount.
# With -aqP rsync writes each file that has changed anew. With --inplace, --no-whole-file and -B 4096, which somebody
# knows who knows rsync well, it writes the blocks that differ.
by_hand() {
    lvcreate -qq -L 800M -s -n bench_dat vg00/dat
    mount -o noatime,nouuid /dev/vg00/bench_dat /srv/bench/mnt
    restic --repo /srv/bench/bare --password-file $password mount /srv/bench/fuse >/dev/null 2>&1 &
    local pid=$!
    until [ -e /srv/bench/fuse/snapshots/latest ]; do sleep 0.1; done
    rsync "$@" --delete /srv/bench/fuse/snapshots/latest/srv/bench/mnt/ /srv/bench/mnt/ >/dev/null
    umount /srv/bench/mnt
    umount /srv/bench/fuse
    wait $pid || true
}

# higher PATTERN KIB: prints the largest of the number and the peak resident sets of the processes that match the
# pattern.
higher() {
    local most=$2 now pid
    for pid in $(pgrep -f "$1" || true); do
        now=$(awk '/VmHWM/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
        [ "${now:-0}" -le "$most" ] || most=$now
    done
    echo "$most"
}

# peaks NAME COMMAND...: runs the command, and prints the largest resident sets, in KiB, of its run and of the backend.
peaks() {
    local name=$1 run=0 backend=0
    shift
    "$@" >/dev/null 2>&1 &
    local pid=$!
    while kill -0 $pid 2>/dev/null; do
        run=$(higher '/var/lib/rewind/bin/rewind-.* journey' "$run")
        backend=$(higher 'backend mirror' "$backend")
    done
    wait $pid
    note "memory-$name-run" "$run"
    note "memory-$name-backend" "$backend"
}

memory() {
    python3 -c '
import os
for d in range(100):
    os.makedirs(f"/pccehr/many/{d}")
    for f in range(int(os.environ["FILES"]) // 100):
        open(f"/pccehr/many/{d}/{f}", "w").close()'
    with mirror
    peaks backup snap_backup volumes=/pccehr "${words[@]}"
    rm -rf /pccehr/many/1? && sync
    peaks restore snap_backup action=restore volumes=/pccehr "${words[@]}"
}

# larger_volume extends the volume of /dat and makes the larger tree on it.
larger_volume() {
    services stop
    lvextend -qqr -L 2G vg00/dat >/dev/null
    bulk
}

all() {
    for _ in $(seq "$ROUNDS"); do
        services stop
        store_all >/dev/null 2>&1
        started
        su postgres -c 'pgbench -n -t 500 -c 2 bench' >/dev/null 2>&1
        services stop
        measure_restores
        started
    done
    rm -rf "$base"/{mirror,rsync,restic,bare} # to make room
    services stop
    for _ in $(seq "$ROUNDS"); do measure_empty; done
    larger_volume
    note megabytes "$MEGABYTES"
    for _ in $(seq "$ROUNDS"); do measure_larger mirror rsync restic; done
    rm -rf /var/lib/rewind/jobs
    mkdir "$base/mirror"
    memory
}

counted() {
    # A first backup, so that the program's own copy is there before the measurement.
    snap_backup volumes=/pccehr "backend_options=path=$base/mirror" >/dev/null 2>&1
    larger_volume
    measure_larger rsync restic
}

setup
"$1"
