#!/bin/bash
# Prints the milliseconds from the stop of the first service to the start of the last one, as systemd has recorded
# them. So it does not matter who has stopped and started them.
set -euo pipefail
systemctl show -p ActiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic \
    pccehr.service 'postgresql@*-main.service' |
    awk -F= '
        /ActiveExit/  && (!stop || $2 < stop) { stop = $2 }
        /ActiveEnter/ && $2 > start           { start = $2 }
        END { if (!stop || start <= stop) exit 1; printf "%d\n", (start - stop) / 1000 }'
