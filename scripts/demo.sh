#!/usr/bin/env bash
# The main job on a throw-away source: follow a Postgres under load, cut branches, use them, leave.
# Everything lives in one temporary directory and is gone afterwards, also after Ctrl-C or a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ROOT=$PWD
readonly WORK=$(mktemp -d "${TMPDIR:-/tmp}/ardent-demo.XXXXXX")
readonly SOURCE_PASSWORD=correct-horse
export ARDENT_DATA_DIR=$WORK/data
export PATH=$ROOT/target/release:$PATH PGTZ=UTC
PG_BIN=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
source_pid='' server_pid='' load_pid='' total_started=$EPOCHREALTIME
timings=()

# ---- talking -------------------------------------------------------------------------------------------

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '   %s\n' "$*"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
seconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.3f", to - from }'; }

# step NAME COMMAND...: shows the command, runs it and remembers how long it took.
step() {
  local name=$1 started=$EPOCHREALTIME took
  shift
  printf '%s   $ %s%s\n' "$dim" "$(shown "$@")" "$plain"
  "$@" | sed 's/^/   /'
  took=$(seconds_since "$started")
  timings+=("$(printf '%-46s %8s s' "$name" "$took")")
}

# A command as a reader would type it, with passwords left out.
shown() {
  local word words=()
  [ "$1" != on_branch ] || set -- psql "${@:2}"
  for word in "$@"; do
    [[ $word != *[\ \?\&]* && $word != postgresql://* ]] || word="'$word'"
    words+=("$(sed -E 's#(://[^:/@]*):[^@]*@#\1:***@#' <<<"$word")")
  done
  echo "${words[*]}"
}

# ---- processes -----------------------------------------------------------------------------------------

# Postgres refuses to run as root. In a session of its own Ctrl-C reaches this script alone, which then
# stops everything in order.
as_postgres=(setsid)
if [ "$(id -u)" = 0 ]; then as_postgres+=(setpriv --reuid postgres --regid postgres --init-groups); fi

# until_true SECONDS WHAT COMMAND...: nothing outside these processes tells when they are ready, so ask often.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what: not in time"
    sleep 0.05
  done
}

# stop PID SIGNAL SECONDS: asks a process to end; kills it when it does not.
stop() {
  [ -n "$1" ] || return 0
  kill "-$2" "$1" 2>/dev/null || return 0
  local deadline=$((SECONDS + $3))
  while kill -0 "$1" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "$1" 2>/dev/null || true; break; fi
    sleep 0.05
  done
  wait "$1" 2>/dev/null || true
}

mounts_left() { awk -v at="$WORK/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo; }
# Pids that name our directory on their command line or work below it.
processes_left() {
  local directory words
  for directory in /proc/[0-9]*; do
    words=$(tr '\0' ' ' 2>/dev/null <"$directory/cmdline"; readlink "$directory/cwd") 2>/dev/null || continue
    [[ $words != *"$WORK"* ]] || echo "${directory#/proc/} $words"
  done
}

clean_up() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  stop "$load_pid" TERM 10
  stop "$server_pid" INT 90
  stop "$source_pid" INT 30
  if [ "$status" != 0 ] && [ -s "$WORK/server.log" ]; then
    printf '\nThe last lines of the server log:\n' >&2
    tail -n 20 "$WORK/server.log" >&2
  fi
  local left
  left=$(mounts_left; processes_left)
  if [ -n "$left" ]; then
    printf '\nLeft behind, ended now:\n%s\n' "$left" >&2
    processes_left | while read -r pid _; do kill -KILL "$pid" 2>/dev/null || true; done
    for mount in $(mounts_left | sort -r); do umount --lazy "$mount" || true; done
    status=1
  fi
  rm -rf --one-file-system "$WORK"
  if [ "$status" = 0 ]; then
    say "Left behind: no process, no mount, no file. The demo took $(seconds_since "$total_started") s."
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
  local port
  for port in $(shuf -i 20000-30000 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  fail 'no free port'
}

# ---- the source ----------------------------------------------------------------------------------------

on_source() { psql -XqAt -v ON_ERROR_STOP=1 -h "$WORK" -p "$source_port" -U postgres shop "$@"; }
# on_branch URL ARGUMENTS...: psql there, with the password where `ps` does not show it.
on_branch() {
  local url=$1 password
  shift
  password=${url#*://*:} password=${password%%@*}
  PGPASSWORD=$password psql -Xq -v ON_ERROR_STOP=1 "${url/:$password@/@}" "$@"
}

start_source() {
  chmod 755 "$WORK"
  [ "$(id -u)" != 0 ] || chown postgres "$WORK"
  source_port=$(free_port)
  echo "$SOURCE_PASSWORD" >"$WORK/password"
  "${as_postgres[@]}" "$PG_BIN/initdb" -D "$WORK/source" -U postgres --pwfile "$WORK/password" --no-sync \
    --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 >/dev/null
  {
    echo "listen_addresses = '127.0.0.1'"
    echo "port = $source_port"
    echo "unix_socket_directories = '$WORK'"
    echo 'wal_level = logical'
    echo 'fsync = off            # this source is thrown away'
    echo 'max_wal_size = 4GB'
    # Debian's current Postgres loads an output plugin only when this names it; older ones lack the setting.
    if "${as_postgres[@]}" "$PG_BIN/postgres" -C output_plugin_libraries -D "$WORK/source" >/dev/null 2>&1; then
      echo "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'"
    fi
  } >>"$WORK/source/postgresql.conf"
  "${as_postgres[@]}" "$PG_BIN/postgres" -D "$WORK/source" >"$WORK/source.log" 2>&1 &
  source_pid=$!
  until_true 30 'start of the source' psql -XqAt -h "$WORK" -p "$source_port" -U postgres -c 'select 1' postgres
  psql -Xq -h "$WORK" -p "$source_port" -U postgres -c 'create database shop' postgres
  for part in schema data keys; do on_source -q -f "$ROOT/demo/$part.sql" >/dev/null; done
}

start_load() {
  "$PG_BIN/pgbench" -n -f "$ROOT/demo/writes.sql" -c 2 -R 50 -T 600 \
    -h "$WORK" -p "$source_port" -U postgres shop >"$WORK/load.log" 2>&1 &
  load_pid=$!
  until_true 10 'the first write of the load' load_writes
}

load_writes() { [ "$(on_source -c "select count(*) > 0 from shop.orders where placed_at > now() - interval '1 s'")" = t ]; }

stop_load() {
  kill -0 "$load_pid" 2>/dev/null || { cat "$WORK/load.log" >&2; fail 'the write load ended by itself'; }
  stop "$load_pid" TERM 10
  load_pid=''
}

# info BRANCH COLUMN: one column of BRANCH INFO.
info() {
  ardent branch info "$1" --format json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

# ---- the job -------------------------------------------------------------------------------------------

title 'A source: a Postgres in production, with a write load on it'
start_source
rows=$(on_source -f demo/tables.sql | awk -F'|' '{ rows += $2 } END { print rows }')
say "$(on_source -c 'show server_version' | sed 's/^/PostgreSQL /'), \
$(on_source -c "select count(*) from pg_class where relkind = 'r' and relnamespace::regnamespace::text in ('shop', 'billing', 'audit')") tables, \
$rows rows, $(on_source -c 'select pg_size_pretty(pg_database_size(current_database()))')"
start_load
say '50 transactions a second are being committed on it from here on.'

title 'Ardent: one server'
started=$EPOCHREALTIME
server_port=$(free_port)
# A range of uids that no server proper uses: a server ends whatever runs under the uids of its computes.
printf '[compute]\nuid_base = %s\n' "$((40000000 + server_port * 1000))" >"$WORK/server.toml"
setsid ardent serve --data-dir "$ARDENT_DATA_DIR" --listen "127.0.0.1:$server_port" --config "$WORK/server.toml" \
  >"$WORK/ready" 2>"$WORK/server.log" </dev/null &
server_pid=$!
server_answers() { ! kill -0 "$server_pid" 2>/dev/null || grep -q '^ready$' "$WORK/ready"; }
until_true 60 'start of the server' server_answers
grep -q '^ready$' "$WORK/ready" || fail 'the server did not start'
timings+=("$(printf '%-46s %8s s' 'start of the server' "$(seconds_since "$started")")")
say "ready after $(seconds_since "$started") s"

readonly SOURCE_URL="postgresql://postgres:$SOURCE_PASSWORD@127.0.0.1:$source_port/shop"
title 'Can this source be followed?'
step 'preflight' ardent connector preflight postgresql "$SOURCE_URL"

title 'Follow it: schema, first copy, then the stream of changes'
step 'connector create (copies the database once)' ardent connector create postgresql "$SOURCE_URL" --name prod

title 'A branch, while the load goes on'
marker=$(on_source -c "insert into audit.events (what) values ('\"just before\"') returning id")
step 'branch create alice' ardent branch create alice
alice=$(ardent branch info alice --print-url)
say "row $marker was committed on the source just before; in the branch it is: \
$(on_branch "$alice" -At -c "select what from audit.events where id = $marker")"
say "branch alice stands at LSN $(info alice lsn)"

title 'Every row of the source, at that position'
say '(the load pauses here, so that both sides can be compared row by row)'
stop_load
step 'branch create bob' ardent branch create bob
bob=$(ardent branch info bob --print-url)
on_source -f demo/tables.sql >"$WORK/tables.source"
on_branch "$bob" -At -f demo/tables.sql >"$WORK/tables.bob"
cmp -s "$WORK/tables.source" "$WORK/tables.bob" ||
  { diff "$WORK/tables.source" "$WORK/tables.bob" >&2 || true; fail 'the branch differs from the source'; }
awk -F'|' '{ rows += $2 } END { printf "   %d rows in %d tables: counts and hashes are equal\n", rows, NR }' "$WORK/tables.bob"
start_load

title 'Writes in one branch reach neither the source nor another branch'
step 'a destructive migration in alice' on_branch "$alice" \
  -c 'delete from billing.payments' -c 'alter table shop.customers drop column profile'
count="select count(*) from billing.payments"
columns="select count(*) from information_schema.columns where table_schema = 'shop' and table_name = 'customers'"
printf '   %-10s %18s %22s\n' '' 'billing.payments' 'columns of customers'
for who in source alice bob; do
  case $who in source) run=(on_source) ;; *) run=(on_branch "${!who}" -At) ;; esac
  printf '   %-10s %18s %22s\n' "$who" "$("${run[@]}" -c "$count")" "$("${run[@]}" -c "$columns")"
done
[ "$(on_branch "$bob" -At -c "$count")" != 0 ] || fail 'a delete in alice reached bob'
[ "$(on_source -c "$count")" != 0 ] || fail 'a delete in alice reached the source'

title 'New rows of the source reach a new branch, not an old one'
later=$(on_source -c "insert into audit.events (what) values ('\"later\"') returning id")
step 'branch create carol' ardent branch create carol
carol=$(ardent branch info carol --print-url)
sees="select count(*) from audit.events where id = $later"
say "row $later of the source: bob sees $(on_branch "$bob" -At -c "$sees"), carol sees $(on_branch "$carol" -At -c "$sees")"
[ "$(on_branch "$bob" -At -c "$sees") $(on_branch "$carol" -At -c "$sees")" = '0 1' ] || fail 'wrong rows in a branch'

title 'What the branches cost on disk'
for who in alice bob carol; do
  say "$(printf '%-6s %8s kB of its own, %6s MB shared' "$who" \
    "$(($(info "$who" unique_bytes) / 1024))" "$(($(info "$who" shared_bytes) / 1048576))")"
done

title 'Leave'
for who in alice bob carol; do step "branch delete $who" ardent branch delete "$who"; done
step 'connector delete' ardent connector delete prod
left=$(on_source -c "select 'slot ' || slot_name from pg_replication_slots
  union all select 'schema ' || nspname from pg_namespace where nspname = 'ardent'
  union all select 'publication ' || pubname from pg_publication
  union all select 'event trigger ' || evtname from pg_event_trigger")
[ -z "$left" ] || fail "left on the source: $left"
say 'On the source nothing of Ardent is left: no slot, schema, publication or trigger.'
stop_load
started=$EPOCHREALTIME
stop "$server_pid" INT 90
server_pid=''
timings+=("$(printf '%-46s %8s s' 'stop of the server' "$(seconds_since "$started")")")

title 'How long each step took'
printf '   %s\n' "${timings[@]}"
