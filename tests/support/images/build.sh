#!/usr/bin/env bash
# Images for `make test-integration` where no registry can be reached: stand-ins under the official names, so that
# the tests read the same everywhere. An image that exists (pulled, say) is left alone. They are Debian inside, not
# Alpine: what passes with them was not tested on the official images.
set -euo pipefail
cd "$(dirname "$0")"
NATS=nats:2.15-alpine
POSTGRES=postgres:17-alpine

exists() { docker image inspect "$1" >/dev/null 2>&1; }

if ! exists "$NATS"; then
  # nats-server is one static binary: it needs nothing around it.
  context=$(mktemp -d)
  cp ../../../.venv/bin/nats-server "$context/nats-server"
  printf 'FROM scratch\nCOPY nats-server /nats-server\nEXPOSE 4222 8222\nENTRYPOINT ["/nats-server"]\n' >"$context/Dockerfile"
  docker build --quiet --tag "$NATS" "$context"
  rm -rf "$context"
fi

if ! exists "$POSTGRES"; then
  root=$(mktemp -d)
  mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --include=ca-certificates,postgresql-common trixie "$root/base.tar"
  docker import --change 'ENV PATH=/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$root/base.tar" callbus-test-base
  docker build --quiet --network host --tag "$POSTGRES" postgres
  rm -rf "$root"
fi
