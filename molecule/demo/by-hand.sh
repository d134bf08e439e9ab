#!/bin/bash
# The rollback as it was typed before: nine commands, in an order that must be right.
# Debian's postgresql.service is a shell around postgresql@VERSION-main: stopped by that name alone it returns before
# the database has stopped, and the umount fails.
set -euo pipefail
systemctl stop pccehr postgresql 'postgresql@*-main.service'
lvconvert --merge vg00/pccehr_snap
lvconvert --merge vg00/dat_snap
umount /pccehr /dat
lvchange -an vg00/{dat,pccehr}
lvchange -ay vg00/{dat,pccehr}
mount /dat
mount /pccehr
systemctl start pccehr postgresql
