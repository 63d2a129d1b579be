#!/usr/bin/env bash
# Purchases with the log, the views and everything else on one machine's PostgreSQL, on the disk as it is and with every fsync of the server
# delayed by 1 ms; and once in SQLite for comparison. One run each.
#
#   benches/postgres.sh PATH-TO-JANGBU PATH-TO-TEST-SERVERS [FLAGS OF jangbu bench purchase]
#
# The results go into target/bench/postgres.jsonl, one JSON object a line, and as lines to standard output.
set -euo pipefail

jangbu=$(realpath "${1:?usage: benches/postgres.sh PATH-TO-JANGBU PATH-TO-TEST-SERVERS [FLAGS]}")
servers=$(realpath "${2:?usage: benches/postgres.sh PATH-TO-JANGBU PATH-TO-TEST-SERVERS [FLAGS]}")
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for command in jq gcc make psql; do
  command -v "$command" > /dev/null || { echo "benches/postgres.sh needs $command: apt-get install jq gcc make postgresql-client" >&2; exit 1; }
done
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
results=$target/bench/postgres.jsonl
mkdir -p "$target/bench"
: > "$results"
make -s -C benches/slow-fsync CC=gcc CARGO_TARGET_DIR="$target"

# What the server starts with is the server's alone.
purchase='
set -e
name=bench_$$_$RANDOM
psql -qX "$JANGBU_TEST_POSTGRES" -c "CREATE DATABASE $name" > /dev/null
JANGBU_STORE="${JANGBU_TEST_POSTGRES%/*}/$name" "$@"'

# run WHERE DELAY FLAGS...
run() {
  local where=$1 delay=$2 line
  shift 2
  local bench=("$jangbu" bench purchase --data "$target/bench" --output json "$@")
  printf '\n==> %s, fsync + %s us: %s\n' "$where" "$delay" "$*" >&2
  if [ "$where" = sqlite ]; then
    line=$("${bench[@]}")
  else
    local slow=()
    [ "$delay" -eq 0 ] || slow=(LD_PRELOAD="$target/slow_fsync.so" SLOW_FSYNC_US="$delay")
    line=$(env "${slow[@]}" "$servers" with postgres -- env -u LD_PRELOAD bash -c "$purchase" purchase "${bench[@]}")
  fi
  jq -c --arg where "$where" --argjson delay "$delay" '. + {log: $where, delayed_us: $delay}' <<< "$line" >> "$results"
}

run sqlite 0 --payment balance "$@"
for delay in 0 1000; do
  for flags in "--payment balance" "--payment card" "--payment balance --hot" "--payment card --hot"; do
    # shellcheck disable=SC2086
    run postgres "$delay" $flags "$@"
  done
done

jq -r '[.log, "+" + (.delayed_us | tostring) + " us", .payment + (if .hot then " hot" else "" end), "\(.orders_per_second | round) orders/s",
  "p50 \(.confirm_p50_ms | round) ms", "p99 \(.confirm_p99_ms | round) ms", "CPU of the shop \(.server_cpu_us_per_order // 0 | round) us/order",
  "\(.commits_per_second * 10 | round / 10) commits/s", "not confirmed: \(.orders - .confirmed)"] | join("  ")' "$results"
