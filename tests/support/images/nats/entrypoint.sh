#!/bin/sh
# As in the official image: arguments alone are nats-server's.
set -e
if [ "${1#-}" != "$1" ]; then set -- nats-server "$@"; fi
exec "$@"
