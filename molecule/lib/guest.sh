# shellcheck shell=bash
# One guest of the lab, for scripts that work on it from this machine. They set guest, source this file, and have the
# repository's root as their working directory. LAB says which release the guest is made from.
release=${LAB:-d12}
config=build/lab/${guest:?}/ssh_config
export PATH=$PWD/build/venv/bin:$PATH
export ANSIBLE_PYTHON_INTERPRETER=auto_silent ANSIBLE_LOCALHOST_WARNING=False

# fresh_guest boots the guest in its first saved state.
fresh_guest() {
    molecule/lab/lab down "$guest"
    molecule/lab/lab up "$guest" --from "$release"
}

# run_in_guest COMMAND: runs a command in the guest.
run_in_guest() { ssh -F "$config" "$guest" "$1"; }

# run_script FILE [ARGUMENT...]: runs a script of this machine in the guest.
run_script() { ssh -F "$config" "$guest" bash -s -- "${@:2}" <"$1"; }

# install_in_guest DIRECTORY FILE...: copies programs of a directory of this machine into the guest.
install_in_guest() { tar -C "$1" -c "${@:2}" | run_in_guest 'tar -C /usr/local/bin -x'; }

# play PLAYBOOK...: plays on the guest.
play() { ansible-playbook -i "$guest," -e "ansible_ssh_common_args='-F $config'" "$@"; }
