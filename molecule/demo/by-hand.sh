#!/bin/bash
# The rollback as it was typed before: nine commands, in an order that must be right.
set -euo pipefail
systemctl stop pccehr postgresql
lvconvert --merge vg00/pccehr_snap
lvconvert --merge vg00/dat_snap
umount /pccehr /dat
lvchange -an vg00/{dat,pccehr}
lvchange -ay vg00/{dat,pccehr}
mount /dat
mount /pccehr
systemctl start pccehr postgresql
