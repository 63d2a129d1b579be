#!/usr/bin/env bash
# Breaks a copy of the tree in one small way after another, and shows which seed notices: simulation/mutants/run.sh [MUTANT...]
#
# SEEDS says how many seeds are tried at most (20000), with one shard and with four, and SCRATCH where the copy goes (a directory of its own under TMPDIR). A mutant that
# no seed notices is tried on the named stories. Ends with 1 if one was noticed by nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
seeds=${SEEDS:-20000}
scratch=${SCRATCH:-$(mktemp -d "${TMPDIR:-/tmp}/mutants.XXXXXX")}
[ -n "${SCRATCH:-}" ] || trap 'rm -rf -- "$scratch"' EXIT

mkdir -p "$scratch/tree"
# As new files: what was built there before may be of a mutant.
copy() { tar -C "$root" --exclude=./target --exclude=./.git --exclude=./data -cf - . | tar -C "$scratch/tree" -xmf -; }
copy
cd "$scratch/tree"
unset CARGO_TARGET_DIR
# Optimised as tests are, and compiled piece by piece: a mutant is built in seconds.
build() { cargo build --quiet --locked -p simulation --bin simulation 2>"$scratch/build.log"; }
echo "building the tree as it is" >&2
cargo build --quiet --locked -p simulation --example mutate 2>"$scratch/build.log" || { cat "$scratch/build.log" >&2; exit 1; }
cp target/debug/examples/mutate "$scratch/mutate"
build || { cat "$scratch/build.log" >&2; exit 1; }
for shards in 1 4; do
    if ! ./target/debug/simulation --shards "$shards" --seeds 500 --first >"$scratch/out"; then
        echo "the tree itself breaks:" >&2
        grep BROKEN "$scratch/out" >&2
        exit 1
    fi
done

# Says in `by` and `check` who notices, if anybody does: a few seeds with one shard, then with four, then many with one, then the stories.
notice() {
    local few=$((seeds < 300 ? seeds : 300))
    for run in "1 $few" "4 $seeds" "1 $seeds"; do
        read -r shards count <<<"$run"
        if ! timeout 600 ./target/debug/simulation --shards "$shards" --seeds "$count" --first >"$scratch/out" 2>/dev/null; then
            line=$(grep -m1 '^BROKEN' "$scratch/out" || true)
            by=$(sed -n 's/^BROKEN \(seed [0-9]*\):.*/\1/p' <<<"$line")
            check=$(sed -n 's/^BROKEN seed [0-9]*: \([^:]*: .\{0,90\}\).*/\1/p' <<<"$line")
            [ -n "$by" ] || { by='-' check='no end, or no word'; return 1; }
            [ "$shards" = 1 ] || by="$by of $shards"
            return 0
        fi
    done
    for shards in 1 2; do
        if ! timeout 600 ./target/debug/simulation --shards "$shards" --scenarios --singles >"$scratch/out" 2>/dev/null; then
            line=$(grep -m1 '^BROKEN' "$scratch/out")
            by="story of $shards" check=$(sed 's/^BROKEN \(.\{0,140\}\).*/\1/' <<<"$line")
            return 0
        fi
    done
    by='NOTHING' check="$seeds seeds"
    return 1
}

mutants=("$@")
[ $# -gt 0 ] || for file in "$here"/*.mutant; do mutants+=("$(basename "$file" .mutant)"); done
missed=0
printf '%-46s %-16s %s\n' mutant 'caught by' check
for name in "${mutants[@]}"; do
    file=$here/$name.mutant
    path=$(sed -n '3p' "$file")
    cp "$path" "$scratch/original"
    "$scratch/mutate" "$file" .
    if ! build; then
        by='-' check='it does not compile'
        missed=1
    else
        notice || missed=1
    fi
    printf '%-46s %-16s %s\n' "$name" "$by" "$check"
    cp "$scratch/original" "$path"
done
exit "$missed"
