#!/usr/bin/env bash
# The main job on a Postgres of the user's own: make demo SOURCE=postgresql://...
# Says first what it will make there, asks unless YES=1, and removes it at the end, on failure and on Ctrl-C.
# The source's tables are read and never written; everything here lives in one temporary directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${SOURCE:?SOURCE=postgresql://user:password@host:port/database}"
readonly WORK=$(mktemp -d "${TMPDIR:-/tmp}/ardent-demo.XXXXXX")
export ARDENT_DATA_DIR=$WORK/data
export PATH=$PWD/target/release:$PATH
unset ARDENT_URL
server_pid='' created=''

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '   %s\n' "$*"; }

# on_branch URL ARGUMENTS...: psql there, with the password where `ps` does not show it.
on_branch() {
  local url=$1 password
  shift
  password=${url#*://*:} password=${password%%@*}
  PGPASSWORD=$password psql -Xq "${url/:$password@/@}" "$@"
}

# The source as a reader may see it.
shown=$(sed -E 's#(://[^:/@]*):.*@#\1:***@#; s#\?.*##' <<<"$SOURCE")

clean_up() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  if [ -n "$created" ] && kill -0 "$server_pid" 2>/dev/null; then
    say 'removing the connector, and all of it on the source'
    ardent connector delete demo --force ||
      say 'The source could not be cleaned up: see above for what to run there.'
  fi
  if [ -n "$server_pid" ]; then
    kill -INT "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
  fi
  if [ "$status" != 0 ] && [ -s "$WORK/server.log" ]; then tail -n 20 "$WORK/server.log" >&2; fi
  rm -rf --one-file-system "$WORK"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title "Your source: $shown"
say 'While this runs, the source will hold:'
say '  * the replication slot ardent_c1, and sessions that read all tables of this database once;'
say '  * where the role may: schema ardent, with event triggers that note schema changes.'
say 'No table of yours is written or altered. All of it is removed at the end, also after Ctrl-C.'
if [ "${YES:-}" != 1 ]; then
  [ -t 0 ] || { say 'Nobody is here to ask: run it with YES=1.'; exit 1; }
  read -r -p '   Go on? [y/N] ' answer
  [[ $answer == [yY]* ]] || { say 'Nothing was done.'; exit 0; }
fi

title 'A server of its own'
for port in $(shuf -i 20000-30000 -n 50); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
# A range of uids that no server proper uses: a server ends whatever runs under the uids of its computes.
printf '[compute]\nuid_base = %s\n' "$((40000000 + port * 1000))" >"$WORK/server.toml"
chmod 755 "$WORK"
# In a session of its own Ctrl-C reaches this script alone, which then stops everything in order.
setsid ardent serve --data-dir "$ARDENT_DATA_DIR" --listen "127.0.0.1:$port" --config "$WORK/server.toml" \
  >"$WORK/ready" 2>"$WORK/server.log" </dev/null &
server_pid=$!
deadline=$((SECONDS + 60))
until grep -q '^ready$' "$WORK/ready"; do
  kill -0 "$server_pid" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ] || { say 'the server did not start'; exit 1; }
  sleep 0.05
done
say 'ready'

title 'Can it be followed?'
ardent connector preflight postgresql "$SOURCE" | sed 's/^/   /'

title 'Follow it'
created=1
ardent connector create postgresql "$SOURCE" --name demo --accept-replica-identity-defaults

title 'A branch of it'
ardent branch create alice
alice=$(ardent branch info alice --print-url)
on_branch "$alice" -c '\dt+' | head -n 20
on_branch "$alice" -c 'create table only_in_alice (id int)'
say 'A table was made in branch alice; the source does not have it, nor does the next branch:'
ardent branch create bob
bob=$(ardent branch info bob --print-url)
say "bob has it: $(on_branch "$bob" -At -c "select to_regclass('only_in_alice') is not null")"

title 'Leave'
ardent branch delete alice
ardent branch delete bob
ardent connector delete demo
created=''
