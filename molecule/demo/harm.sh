#!/bin/bash
# Does the harm that a data conversion may do when it goes wrong.
set -euo pipefail
psql -qd dat -c 'DELETE FROM patient WHERE id % 2 = 0' -c "UPDATE patient SET name = '?'"
rm -r /pccehr/records/ward1?
dd if=/dev/zero of=/pccehr/images/scan3.bin bs=1M count=4 conv=notrunc status=none
sync
