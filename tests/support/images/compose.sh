#!/usr/bin/env bash
# `docker compose` (v2) and buildx for a Debian that has only compose v1: the packages of the next release, of which
# nothing but the two programs is unpacked. Does nothing where `docker compose` works.
set -euo pipefail
RELEASE=trixie
PLUGINS=/usr/local/lib/docker/cli-plugins

if docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt downloads as a user of its own
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
# Debian's own mirror as this machine names it, for another release, in lists of their own.
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
[ -n "$mirror" ] || mirror=$(awk '$1 == "deb" && $2 !~ /security/ { print $2; exit }' /etc/apt/sources.list)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $RELEASE main" >"$work/release.list"
options=(-o "Dir::Etc::sourcelist=$work/release.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
  -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false")
apt-get "${options[@]}" update -qq
(cd "$work" && apt-get "${options[@]}" download -qq docker-compose docker-buildx)
for package in "$work"/*.deb; do dpkg -x "$package" "$work/unpacked"; done
mkdir -p "$PLUGINS"
cp "$work"/unpacked/usr/libexec/docker/cli-plugins/* "$PLUGINS/"
docker compose version
