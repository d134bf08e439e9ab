#!/bin/bash
# Prints the milliseconds from the stop of the first service to the last one active again, by systemd's own clock;
# whoever stopped and started them is measured alike.
set -euo pipefail
systemctl show -p ActiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic pccehr.service 'postgresql@*-main.service' |
    awk -F= '
        /ActiveExit/  && (!stop || $2 < stop) { stop = $2 }
        /ActiveEnter/ && $2 > start           { start = $2 }
        END { if (!stop || start <= stop) exit 1; printf "%d\n", (start - stop) / 1000 }'
