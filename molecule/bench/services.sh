#!/bin/bash
# What stopping and starting the services costs by itself: no rollback can be quicker.
set -euo pipefail
systemctl stop pccehr postgresql 'postgresql@*-main.service'
systemctl start pccehr postgresql
