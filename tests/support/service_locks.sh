#!/usr/bin/env bash
# An undeclared dependency hides in the shared environment: import each service with nothing but its own lock.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
for service in sip_gateway browser_gateway twilio_gateway ai_session catalog_tools transcript_store recorder rehearsal; do
  python3 -m venv --without-pip "$root/$service"
  .venv/bin/uv pip sync --quiet --python "$root/$service/bin/python" --require-hashes "requirements/${service//_/-}.lock"
  "$root/$service/bin/python" -c "import services.$service.__main__" && echo "ok  $service"
done
python3 -m venv --without-pip "$root/cli"
.venv/bin/uv pip sync --quiet --python "$root/cli/bin/python" --require-hashes requirements/cli.lock
"$root/cli/bin/python" -c "import cli.main" && echo "ok  cli"
