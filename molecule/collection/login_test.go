//go:build playbooks

package collection

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// people changes who may log in here, and as whom, within namespaces of its own, and starts sshd there. "admin"
// becomes root with a password of sudo's or root's own; "trusted" without.
const people = "set -e; " + ownPlaces + `
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
cp own.pub /run/authorized # who logs in reads it
echo "ListenAddress 127.0.0.1
Port 2222
HostKey $PWD/host
AuthorizedKeysFile /run/authorized
StrictModes no
PermitRootLogin prohibit-password
PidFile none" >sshd_config
/usr/sbin/sshd -f "$PWD/sshd_config" -E "$PWD/sshd.log"
exec "$@"`

// ways is an inventory with a host for each way to root; its directory and whether it has pipelining are left out.
const ways = `
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

// twice calls a module where its program is not kept yet, and where it is.
const twice = `- hosts: all
  gather_facts: false
  serial: 1
  ignore_errors: true
  tasks:
    - pcc.rewind.lvm_snapshot_info:
    - pcc.rewind.lvm_snapshot_info:
    - ansible.builtin.raw: rm -r /var/lib/rewind
`

// logins calls a module over ssh in each way to become root, with pipelining and without.
func (in installed) logins(t *testing.T) {
	for _, pipelining := range []string{"True", "False"} {
		dir := t.TempDir()
		noted := filepath.Join(dir, "results")
		write(t, filepath.Join(dir, "inventory"), fmt.Sprintf(ways, dir, pipelining))
		write(t, filepath.Join(dir, "play.yml"), twice)
		out, _ := in.run(t, slices.Concat(
			[]string{"unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "env", "RESULTS=" + noted, "sh",
				"-c", people, "sh", dir},
			in.program(t, "ansible-playbook"), []string{"-i", filepath.Join(dir, "inventory"), filepath.Join(dir, "play.yml")})...)
		of := results(t, noted)
		for _, host := range []string{"root", "sudo", "password", "su", "wrong", "nobody"} {
			if len(of) < 3 {
				t.Fatalf("pipelining %s, %s: it was not tried\n%s", pipelining, host, out)
			}
			for _, r := range of[:2] {
				if why := map[string]string{"wrong": "password", "nobody": "become: true"}[host]; (r["host"] == nil) != (why != "") ||
					!strings.Contains(text(r["msg"]), why) {
					t.Errorf("pipelining %s, %s: %v\n%s", pipelining, host, r, out)
				}
			}
			of = of[3:]
		}
	}
}
