#!/bin/bash
# Stops and starts the services, and does nothing else. No rollback can have less downtime than that.
set -euo pipefail
systemctl stop pccehr postgresql 'postgresql@*-main.service'
systemctl start pccehr postgresql
