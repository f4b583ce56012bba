#!/usr/bin/env bash
# Installs what a bare Debian 12 with Rust and make lacks: a stock Postgres with wal2json, FUSE, a C compiler,
# the ways into private networks that tests go (sshd, a SOCKS server), and the client drivers that they
# connect with. Asks no registry when nothing is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly REQUIREMENTS=tests/drivers/requirements.txt
readonly NPM_DRIVERS=(pg@8.16.3 postgres@3.4.7 prisma@6.19.0 @prisma/client@6.19.0 @prisma/adapter-pg@6.19.0)
readonly PRISMA_SCHEMA=tests/drivers/schema.prisma
readonly PRISMA_CLIENT=tests/node_modules/.prisma
readonly VENV=tests/.venv

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in postgresql-15 postgresql-15-wal2json fuse3 openssh-server microsocks iproute2 openssl pgbouncer e2fsprogs mount libpostgresql-jdbc-java; do
  installed "$package" || missing+=("$package")
done
# Tests restrict output plugins (output_plugin_libraries), which older minors cannot. A server that runs from these
# programs is not ours to restart.
readonly POSTGRES_MIN=15.20
postgres_version=$(dpkg-query -W -f '${Version}' postgresql-15 2>/dev/null || true)
if [ -n "$postgres_version" ] && dpkg --compare-versions "$postgres_version" lt "$POSTGRES_MIN"; then
  if pg_lsclusters -h 2>/dev/null | grep -q online; then
    echo "setup: postgresql-15 $postgres_version runs here and is left as it is; some tests need $POSTGRES_MIN" >&2
  else
    missing+=(postgresql-15 postgresql-client-15)
  fi
fi
command -v cc >/dev/null || missing+=(gcc libc6-dev)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v java >/dev/null || missing+=(openjdk-17-jre-headless)

if [ "${#missing[@]}" -gt 0 ]; then
  echo "setup: installing ${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
    install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi

if ! cmp -s "$REQUIREMENTS" "$VENV/installed.txt"; then
  echo "setup: installing the Python drivers"
  python3 -m venv --clear "$VENV"
  "$VENV/bin/pip" -q --disable-pip-version-check install --requirement "$REQUIREMENTS"
  cp "$REQUIREMENTS" "$VENV/installed.txt"
fi

npm_installed() {
  node -p 'const p = require(`./tests/node_modules/${process.argv[1]}/package.json`); p.name + "@" + p.version' \
    "${1%@*}" 2>/dev/null
}
for driver in "${NPM_DRIVERS[@]}"; do
  if [ "$(npm_installed "$driver")" != "$driver" ]; then
    echo "setup: installing ${NPM_DRIVERS[*]}"
    # Prisma's install scripts would fetch engines: its client needs none with a driver of JavaScript.
    npm install --prefix tests --no-save --no-package-lock --no-audit --no-fund --loglevel=error --ignore-scripts \
      "${NPM_DRIVERS[@]}"
    rm -rf "$PRISMA_CLIENT"
    break
  fi
done

if ! cmp -s "$PRISMA_SCHEMA" "$PRISMA_CLIENT/generated.prisma"; then
  echo "setup: generating Prisma's client"
  # Runs no engine, but looks for them, and would fetch what it does not find.
  CHECKPOINT_DISABLE=1 PRISMA_SCHEMA_ENGINE_BINARY=/bin/true PRISMA_QUERY_ENGINE_LIBRARY=/bin/true \
    node tests/node_modules/prisma/build/index.js generate --schema "$PRISMA_SCHEMA" --no-hints >/dev/null
  cp "$PRISMA_SCHEMA" "$PRISMA_CLIENT/generated.prisma"
fi
