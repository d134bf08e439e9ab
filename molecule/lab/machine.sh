# shellcheck shell=bash
# The virtual machine. A saved state fits only the machine it was saved on, so this file is
# part of every image's key; starting and ending one is in qemu.sh.

readonly MEMORY=1536M CPUS=2

# machine_args ACCEL IMAGE: the arguments every start of a guest has in common, as lines.
machine_args() {
    local accel=$1 image=$2 cpu
    local append="root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 mitigations=off audit=0"
    append+=" nowatchdog rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on tsc=reliable"
    if [[ $accel == kvm ]]; then
        cpu=host
    else
        cpu=Nehalem # faster than "max", whose AVX2 is dearer under emulation than what it saves
        accel=tcg,thread=multi,tb-size=512
    fi
    printf '%s\n' -no-user-config -nodefaults -display none \
        -accel "$accel" -cpu "$cpu" -smp "$CPUS" -m "$MEMORY" \
        -kernel "$image/vmlinuz" -initrd "$image/initrd" -append "$append" \
        -device virtio-rng-pci
}

# disks_args DIR SUFFIX OPTIONS: the root file system, /dev/vda, and what the loop devices lie on,
# /dev/vdb: plain disks, without discards and the like. As lines, like those that follow.
disks_args() {
    local disk
    for disk in root volumes; do
        printf '%s\n' -drive "if=none,id=$disk,file=${1//,/,,}/$disk.$2,format=$2,$3" \
            -device "virtio-blk-pci,drive=$disk,discard=off,write-zeroes=off"
    done
}

# net_args PORT; console_args FILE
net_args() {
    printf '%s\n' -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$1-:22" \
        -device virtio-net-pci,netdev=net,romfile=
}

console_args() {
    printf '%s\n' -chardev "file,id=console,append=on,path=${1//,/,,}" -serial chardev:console
}

# memory_args FILE SHARED: the guest's memory is FILE, mapped shared (to save a state in it) or
# privately (to start from one: pages are read when they are touched, copied when written to).
memory_args() {
    printf '%s\n' -machine q35,memory-backend=ram \
        -object "memory-backend-file,id=ram,size=$MEMORY,mem-path=${1//,/,,},share=$2"
}
