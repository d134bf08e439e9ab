# shellcheck shell=bash
# What the host needs.

# dependencies prints a line for each package: its name, a program or file of it, and what it is for.
dependencies() {
    cat <<'LIST'
qemu-system-x86 qemu-system-x86_64 runs the guests
qemu-utils qemu-img makes a disk overlay for each guest
mmdebstrap mmdebstrap builds a guest's root file system
debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg checks Debian's packages
e2fsprogs mke2fs turns a root file system into an image
openssh-client ssh talks to the guests
socat socat talks to QEMU when a state is saved
util-linux flock lets several runs share one cache
LIST
}

deps() {
    local package program why missing=()
    while read -r package program why; do
        if [[ $program == /* ]]; then
            [[ -e $program ]] && continue
        elif PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null; then
            continue
        fi
        say "missing: $package ($why)"
        missing+=("$package")
    done < <(dependencies)
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || fail "please install them: there is no apt-get here"
    say "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# need_deps fails if something is missing, and says what to do, before a command would fail in the middle.
need_deps() {
    local package program why
    while read -r package program why; do
        [[ -e $program ]] || PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null ||
            fail "$program is missing; run: $0 deps"
    done < <(dependencies)
}
