#!/usr/bin/env bash
# Images for `make test-integration` and `make demo-compose` where no registry can be reached: stand-ins under the
# official names, so that everything reads the same everywhere. An image that exists (pulled, say) is left alone. They
# are Debian inside, not Alpine: what passes with them was not tested on the official images.
set -euo pipefail
cd "$(dirname "$0")"
BASE=callbus-test-base
NATS=nats:2.15-alpine
POSTGRES=postgres:17-alpine
PYTHON=python:3.13-slim

exists() { docker image inspect "$1" >/dev/null 2>&1; }

base() {
  if exists "$BASE"; then return; fi
  root=$(mktemp -d)
  mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --include=ca-certificates trixie "$root/base.tar"
  docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$root/base.tar" "$BASE"
  rm -rf "$root"
}

build() { # folder, tag
  base
  docker build --quiet --network host --tag "$2" "$1"
}

if ! exists "$NATS"; then
  context=$(mktemp -d)
  cp nats/* ../../../.venv/bin/nats-server "$context" # one static binary
  build "$context" "$NATS"
  rm -rf "$context"
fi
exists "$PYTHON" || build python "$PYTHON"
exists "$POSTGRES" || build postgres "$POSTGRES"
