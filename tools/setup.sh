#!/usr/bin/env bash
# Installs what a command of the Makefile needs and this machine lacks, and does nothing when all is there.
#
#   tools/setup.sh build    what building needs
#   tools/setup.sh test     what `make check` and `make test` need besides
#
# Where it may not install something it names the one command that does, and ends with 1.
set -euo pipefail

CARGO_DENY_VERSION=0.20.2
cache="${JANGBU_CACHE:-$HOME/.cache/jangbu}"

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
  say "$1 is missing. Install it with:"
  printf '  %s\n' "$2" >&2
  exit 1
}

# need_commands COMMAND=PACKAGE...: installs the Debian packages of the commands that are missing, in one go.
need_commands() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  command -v apt-get >/dev/null 2>&1 || fail "${missing[*]}" "your package manager: ${missing[*]}"
  [ "$(id -u)" -eq 0 ] || fail "${missing[*]}" "sudo sh -c '$install'"
  say "installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive sh -c "$install" >&2 || fail "${missing[*]}" "$install"
}

need_rust() {
  command -v cargo >/dev/null 2>&1 || fail "Rust" "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(rustc --version | awk '{ print $2 }')
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] || fail "Rust $wanted (this is $found)" "rustup update stable"
}

need_component() {
  "cargo-$1" --version >/dev/null 2>&1 && return
  command -v rustup >/dev/null 2>&1 || fail "cargo $1" "your package manager: $2"
  say "installing $2"
  rustup component add "$2" >&2 || fail "cargo $1" "rustup component add $2"
}

# Built once, beside the clone and not in it, in a version that is the same everywhere.
need_cargo_deny() {
  local root="$cache/cargo-deny"
  [ "$("$root/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ] && return
  say "building cargo-deny $CARGO_DENY_VERSION (about two minutes, once)"
  local build=(env -u RUSTFLAGS CARGO_TARGET_DIR="$root/build" nice cargo install cargo-deny --quiet --locked --force --version "$CARGO_DENY_VERSION" --root "$root")
  "${build[@]}" >&2 || fail "cargo-deny" "${build[*]}"
  rm -rf "$root/build"
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
  build)
    need_rust
    need_commands cc=gcc
    ;;
  test)
    need_rust
    need_commands cc=gcc curl=curl jq=jq
    need_component fmt rustfmt
    need_component clippy clippy
    need_cargo_deny
    ;;
  *)
    echo "usage: tools/setup.sh build|test" >&2
    exit 2
    ;;
esac
