#!/usr/bin/env bash
# What several shards cost and bring on one machine: purchases with 1, 2 and 4 shards, of ten products and of one, paid from the balance and
# by card, each in a shop of its own. One run each, some minutes in all. The table of docs/performance.md.
#
#   benches/shards.sh PATH-TO-JANGBU [FLAGS OF jangbu bench purchase]
#
# The results go into target/bench/shards.jsonl, one JSON object a line, and as a table to standard output. RESULTS= names another file,
# SHARDS= other numbers.
set -euo pipefail

jangbu=$(realpath "${1:?usage: benches/shards.sh PATH-TO-JANGBU [FLAGS]}")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v jq > /dev/null || { echo 'benches/shards.sh needs jq: apt-get install jq' >&2; exit 1; }
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
results=${RESULTS:-$target/bench/shards.jsonl}
mkdir -p "$(dirname "$results")" "$target/bench"
: > "$results"

failed=0
for payment in balance card; do
  for goods in '' --hot; do
    for shards in ${SHARDS:-1 2 4}; do
      printf '\n==> JANGBU_SHARDS=%s jangbu bench purchase --payment %s %s %s\n' "$shards" "$payment" "$goods" "$*" >&2
      JANGBU_SHARDS=$shards "$jangbu" bench purchase --data "$target/bench" --output json --payment "$payment" $goods "$@" |
        jq -c --arg shards "$shards" '. + {shards: $shards}' >> "$results" || failed=1
    done
  done
done

echo
{
  printf '%s\n' 'purchase,shards,fsync us,orders/s,p50 ms,p99 ms,events/order,events/s,commits/s,CPU us/order,lag p99 ms,failed'
  jq -r '[.payment + (if .hot then " hot" else "" end), .shards, (.fsync_p50_us // 0 | round), (.orders_per_second | round),
    (.confirm_p50_ms, .confirm_p99_ms | . * 10 | round / 10), (.events_per_order * 10 | round / 10),
    (.events_per_second | round), (.commits_per_second | round), (.server_cpu_us_per_order // 0 | round),
    (.projection_lag_p99_ms // 0 | round), .orders - .confirmed] | map(tostring) | join(",")' "$results"
} | column -t -s ,
echo
echo "results: $results"
exit "$failed"
