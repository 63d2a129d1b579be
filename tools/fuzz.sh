#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, each for some seconds from its seeds and under a fixed seed, as many at a time as there are processors.
#
#   tools/fuzz.sh [SECONDS [TARGET...]]    5 seconds and all targets unless said
#
# One line per target: its runs and the branches that they reached. A crash is kept beside the build, and named with the command that
# repeats it. What a run finds on the way is thrown away; an input worth keeping is copied into fuzz/corpus/TARGET by hand.
# Nothing is built inside the clone, and nothing needs the network once the cache is warm.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds="${1:-5}"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: tools/fuzz.sh [SECONDS [TARGET...]]" >&2; exit 2; }
shift || true
tools/setup.sh fuzz

cache="${JANGBU_CACHE:-$HOME/.cache/jangbu}"
build="${CARGO_TARGET_DIR:-$cache/target}/fuzz"
crashes="$build/crashes"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml)
[ $# -gt 0 ] && targets=("$@")

# cargo-fuzz does not pass --locked on, so the lock is looked at before.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml > "$scratch/metadata" || {
  echo "fuzz/Cargo.lock does not fit the crates any more; repair it with: cargo update --workspace --manifest-path fuzz/Cargo.toml" >&2
  exit 1
}
env -u RUSTFLAGS "$cache/cargo-fuzz/bin/cargo-fuzz" fuzz build --fuzz-dir fuzz --sanitizer none --target-dir "$build"
binaries=("$build"/*/release)
binaries="${binaries[0]}"

# seeds TARGET: the directories that hold its first inputs.
seeds() {
  [ -d "fuzz/corpus/$1" ] && echo "fuzz/corpus/$1"
  [ "$1" = events ] && printf '%s\n' aggregates/tests/recorded sagas/tests/recorded
  return 0
}

run() {
  local target="$1" found="$scratch/found/$1" log="$scratch/$1.log" dictionary options=()
  mkdir -p "$found" "$crashes/$target"
  case "$target" in
    graphql | rest_headers) dictionary="$target" ;;
    events | stored | rest_bodies) dictionary=json ;;
    *) dictionary= ;;
  esac
  [ -z "$dictionary" ] || options+=("-dict=fuzz/dictionaries/$dictionary.dict")
  local directories
  mapfile -t directories < <(seeds "$target")
  if "$binaries/$target" -seed=1 -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
    -artifact_prefix="$crashes/$target/" "${options[@]}" "$found" "${directories[@]}" > "$log" 2>&1; then
    awk -v target="$target" -v inputs="$(ls "$found" | wc -l)" '
      /DONE +cov:/ { branches = $4 }
      /^stat::number_of_executed_units/ { runs = $2 }
      /^stat::peak_rss_mb/ { memory = $2 }
      END { printf "fuzz %-13s %9d runs  %6d branches  %5d new inputs  %5d MiB ... ok\n", target, runs, branches, inputs, memory }' "$log"
    return
  fi
  local input
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  touch "$scratch/failed-$target"
  echo "fuzz $target ... FAILED"
  grep -v '^#' "$log" | tail -n 25 | sed 's/^/  | /'
  [ -z "$input" ] || printf '  the input:      %s\n  to repeat it:   %s %s\n' "$input" "$binaries/$target" "$input"
}

started=$SECONDS
for target in "${targets[@]}"; do
  [ -x "$binaries/$target" ] || { echo "there is no fuzz target $target; there are: $(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml | tr '\n' ' ')" >&2; exit 2; }
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  run "$target" &
done
wait
failed=$(find "$scratch" -maxdepth 1 -name 'failed-*' | wc -l)
passed=$((${#targets[@]} - failed))
word=ok
[ "$failed" -eq 0 ] || word=FAILED
echo "test result: $word. $passed passed; $failed failed; fuzz targets, $seconds s each; finished in $((SECONDS - started)) s"
[ "$failed" -eq 0 ]
