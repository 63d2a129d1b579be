#!/usr/bin/env bash
# Runs the table of docs/performance.md: paid from the balance, by card, and one hot product, each on the disk as it is and with every
# fsync delayed by 1 ms. One run each, some minutes in all.
#
#   benches/purchase.sh PATH-TO-JANGBU [FLAGS OF jangbu bench purchase]
#
# The results go into target/bench/purchase.jsonl, one JSON object a line, and as a table to standard output. RESULTS= names another file.
set -euo pipefail

jangbu=$(realpath "${1:?usage: benches/purchase.sh PATH-TO-JANGBU [FLAGS]}")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for command in jq gcc make; do
  command -v "$command" > /dev/null || { echo "benches/purchase.sh needs $command: apt-get install jq gcc make" >&2; exit 1; }
done
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
results=${RESULTS:-$target/bench/purchase.jsonl}
mkdir -p "$(dirname "$results")" "$target/bench"
: > "$results"
make -s -C benches/slow-fsync CC=gcc CARGO_TARGET_DIR="$target"

failed=0
# run DELAY-IN-MICROSECONDS FLAGS...
run() {
  local delay=$1 environment=()
  shift
  [ "$delay" -eq 0 ] || environment=(LD_PRELOAD="$target/slow_fsync.so" SLOW_FSYNC_US="$delay")
  printf '\n==> jangbu bench purchase %s (fsync + %s us)\n' "$*" "$delay" >&2
  env "${environment[@]}" "$jangbu" bench purchase --data "$target/bench" --output json "$@" >> "$results" || failed=1
}

for delay in 0 1000; do
  run "$delay" --payment balance "$@"
  run "$delay" --payment card "$@"
  run "$delay" --payment balance --hot "$@"
  run "$delay" --payment card --hot "$@"
done

echo
{
  printf '%s\n' 'purchase,fsync us,orders/s,p50 ms,p99 ms,p99.9 ms,events/order,events/s,commits/s,CPU us/order,lag p99 ms,failed'
  jq -r '[.payment + (if .hot then " hot" else "" end), (.fsync_p50_us // 0 | round), (.orders_per_second | round),
    (.confirm_p50_ms, .confirm_p99_ms, .confirm_p999_ms | . * 10 | round / 10), (.events_per_order * 10 | round / 10),
    (.events_per_second | round), (.commits_per_second | round), (.server_cpu_us_per_order // 0 | round),
    (.projection_lag_p99_ms // 0 | round), .orders - .confirmed] | map(tostring) | join(",")' "$results"
} | awk -F, '
  { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
  END {
    for (row = 1; row <= NR; row++) {
      line = sprintf("%-" width[1] "s", cell[row, 1])
      for (i = 2; i <= NF; i++) line = line sprintf("  %" width[i] "s", cell[row, i])
      print line
    }
  }'
echo
echo "results: $results"
exit "$failed"
