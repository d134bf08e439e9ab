//go:build playbooks

package collection

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// startSSHD is a script that starts sshd and runs a command beside it. It must run in namespaces of its own, because it
// changes which users there are, and what sudo allows them. "admin" may become root with its own password by sudo, or
// with root's by su; "trusted" may become root without a password.
const startSSHD = "set -e; " + mountOwnDirectories + `
ip link set lo up; mount -t tmpfs -o mode=755 tmpfs /home
cd "$1"; shift
echo 'admin:x:4242:4242::/home/admin:/bin/sh
trusted:x:4243:4243::/home/trusted:/bin/sh' | cat /etc/passwd - >passwd
{ echo "root:$(openssl passwd -6 roots-own):20000::::::"; grep -v ^root: /etc/shadow
for name in admin trusted; do echo "$name:$(openssl passwd -6 admins-own):20000::::::"; done; } >shadow
printf '%s\n' 'admin ALL=(ALL) ALL' 'trusted ALL=(ALL) NOPASSWD: ALL' >sudoers
chmod 440 sudoers; chmod 640 shadow; chgrp shadow shadow
for file in passwd shadow sudoers; do mount --bind $file /etc/$file; done
install -d -m 700 -o 4242 -g 4242 /home/admin; install -d -m 700 -o 4243 -g 4243 /home/trusted; mkdir /run/sshd
for key in host own; do ssh-keygen -q -t ed25519 -N '' -f $key; done
cp own.pub /run/authorized # sshd reads it as the user who logs in
echo "ListenAddress 127.0.0.1
Port 2222
HostKey $PWD/host
AuthorizedKeysFile /run/authorized
StrictModes no
PermitRootLogin prohibit-password
PidFile none" >sshd_config
/usr/sbin/sshd -f "$PWD/sshd_config" -E "$PWD/sshd.log"
exec "$@"`

// loginInventory is a format of an inventory with a host for each way to become root. Its arguments are the test's
// directory, and "True" or "False" for pipelining.
const loginInventory = `
root        ansible_user=root ansible_become=false
sudo        ansible_user=trusted
password    ansible_user=admin ansible_become_password=admins-own
su          ansible_user=admin ansible_become_method=su ansible_become_password=roots-own
wrong       ansible_user=admin ansible_become_password=wrong
nobody      ansible_user=trusted ansible_become=false
[all:vars]
ansible_host=127.0.0.1
ansible_port=2222
ansible_become=true
ansible_ssh_private_key_file=%s/own
ansible_ssh_common_args="-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
ansible_pipelining=%s
`

// callTwice is a playbook that calls a module on a server that does not have the program yet, and again when it has it.
const callTwice = `- hosts: all
  gather_facts: false
  serial: 1
  ignore_errors: true
  tasks:
    - pcc.rewind.lvm_snapshot_info:
    - pcc.rewind.lvm_snapshot_info:
    - ansible.builtin.raw: rm -r /var/lib/rewind
`

// testLogins calls a module over ssh in each way to become root, with pipelining and without.
func (in installation) testLogins(t *testing.T) {
	for _, pipelining := range []string{"True", "False"} {
		dir := t.TempDir()
		noted := filepath.Join(dir, "results")
		writeFile(t, filepath.Join(dir, "inventory"), fmt.Sprintf(loginInventory, dir, pipelining))
		writeFile(t, filepath.Join(dir, "play.yml"), callTwice)
		out, _ := in.run(t, slices.Concat(
			[]string{"unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"},
			[]string{"env", "RESULTS=" + noted, "sh", "-c", startSSHD, "sh", dir},
			in.argv(t, "ansible-playbook"),
			[]string{"-i", filepath.Join(dir, "inventory"), filepath.Join(dir, "play.yml")})...)
		results := readResults(t, noted) // three of each host
		for _, host := range []string{"root", "sudo", "password", "su", "wrong", "nobody"} {
			if len(results) < 3 {
				t.Fatalf("pipelining %s, %s: the module was not called\n%s", pipelining, host, out)
			}
			refusal := map[string]string{"wrong": "password", "nobody": "become: true"}[host]
			for _, r := range results[:2] {
				refused := r["host"] == nil
				if refused != (refusal != "") || !strings.Contains(toJSON(r["msg"]), refusal) {
					t.Errorf("pipelining %s, %s: %v\n%s", pipelining, host, r, out)
				}
			}
			results = results[3:]
		}
	}
}
