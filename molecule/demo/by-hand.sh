#!/bin/bash
# Rolls back as an administrator does without Rewind: with nine commands, which must be in the right order. Debian's
# postgresql.service only stands for postgresql@VERSION-main. If that name alone is given, systemctl stop returns before
# the database has stopped, and umount fails.
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
