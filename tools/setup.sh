#!/usr/bin/env bash
# Installs what a command of the Makefile needs and this machine lacks, and does nothing when all is there.
#
#   tools/setup.sh build    what building needs
#   tools/setup.sh test     what `make check` and `make test` need besides
#   tools/setup.sh fuzz     what tools/fuzz.sh needs
#   tools/setup.sh api-fuzz what tools/api-fuzz.sh needs
#   tools/setup.sh deployment what tools/check-deployment.sh needs
#   tools/setup.sh servers  the servers of the tests (PostgreSQL, Redis, Kafka, ...), and what building the client of Kafka needs
#
# Where it may not install something it names the one command that does, and ends with 1.
set -euo pipefail

CARGO_DENY_VERSION=0.20.2
CARGO_FUZZ_VERSION=0.13.2
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
  [ ${#missing[@]} -eq 0 ] || need_packages "${missing[@]}"
}

need_packages() {
  local install="apt-get update && apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null 2>&1 || fail "$*" "your package manager: $*"
  [ "$(id -u)" -eq 0 ] || fail "$*" "sudo sh -c '$install'"
  say "installing $*"
  DEBIAN_FRONTEND=noninteractive sh -c "$install" >&2 || fail "$*" "$install"
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

# need_cargo_tool NAME VERSION MINUTES: built once, beside the clone and not in it, in a version that is the same everywhere.
need_cargo_tool() {
  local name="$1" version="$2" minutes="$3"
  local root="$cache/$name"
  [ "$("$root/bin/$name" --version 2>/dev/null)" = "$name $version" ] && return
  say "building $name $version (about $minutes, once)"
  local build=(env -u RUSTFLAGS CARGO_TARGET_DIR="$root/build" nice cargo install "$name" --quiet --locked --force --version "$version" --root "$root")
  "${build[@]}" >&2 || fail "$name" "${build[*]}"
  rm -rf "$root/build"
}

# need_python_packages LIST DIRECTORY NAME: Python's packages in an environment of their own, beside the clone: exactly those that are named
# in the list, by version and hash.
need_python_packages() {
  local list="$1" root="$2" name="$3"
  cmp -s "$list" "$root/installed" && "$root/bin/python" -c '' 2>/dev/null && return
  command -v python3 >/dev/null 2>&1 && python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages python3 python3-venv
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11" "your package manager: python3 (3.11 or newer)"
  say "installing $(grep -m 1 "^$name==" "$list" | tr -d ' \\') (once)"
  rm -rf "$root"
  local make=(python3 -m venv "$root")
  "${make[@]}" >&2 || fail "a Python environment" "${make[*]}"
  local install=("$root/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: --requirement "$list")
  "${install[@]}" >&2 || fail "$name" "${install[*]}"
  cp "$list" "$root/installed"
}

# Debian starts a server as soon as it is installed. The tests start their own, so this one is not wanted; one that runs is left alone.
need_server_packages() {
  local policy=/usr/sbin/policy-rc.d
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1 && [ ! -e "$policy" ]; then
    trap "rm -f '$policy'" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    need_packages "$@"
    rm -f "$policy"
    trap - EXIT
  else
    need_packages "$@"
  fi
}

# need_server_commands COMMAND=PACKAGE...: as need_commands, for servers, which Debian has where not everybody looks.
need_server_commands() {
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin" command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] || need_server_packages "${missing[@]}"
}

# Go, which Debian 12 has too old. One of 1.21 or later fetches by itself the version that a module asks for.
need_go() {
  local found place
  for place in go /usr/local/go/bin/go; do
    found=$("$place" env GOVERSION 2>/dev/null | sed 's/^go//') || continue
    [ -z "$found" ] || [ "$(printf '1.21\n%s\n' "$found" | sort -V | head -n 1)" != 1.21 ] || return 0
  done
  fail "Go 1.21 or later" "see https://go.dev/dl/"
}

need_servers() {
  local missing=() pair
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)
  for pair in psql=postgresql-client redis-server=redis-server haproxy=haproxy kcat=kcat prometheus=prometheus \
    java=default-jre-headless mvn=maven ipcrm=util-linux make=make c++=g++ pkg-config=pkg-config; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
  done
  pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
  pkg-config --exists zlib 2>/dev/null || missing+=(zlib1g-dev)
  [ ${#missing[@]} -eq 0 ] || need_server_packages "${missing[@]}"
}

# Kafka's jars and a formatted directory to begin with, beside the clone. Renamed when all is there, so that nobody sees half of it.
need_kafka() {
  local version home new
  version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' tools/kafka/pom.xml)
  home="$cache/kafka-$version"
  cmp -s tools/kafka/pom.xml "$home/pom.xml" && cmp -s tools/kafka/format.properties "$home/format.properties" && return
  say "fetching Kafka $version (43 MB, once)"
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/kafka-new-XXXXXX")
  trap "rm -rf '$new'" EXIT
  cp tools/kafka/pom.xml tools/kafka/format.properties "$new/"
  local fetch=(mvn -q -B -f "$new/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$new/lib")
  "${fetch[@]}" >&2 || fail "Kafka" "${fetch[*]}"
  (cd "$new" && java -cp 'lib/*' kafka.tools.StorageTool format -t jangbu-for-its-tests0 -c format.properties) >"$new/format.log" 2>&1 ||
    { cat "$new/format.log" >&2; fail "a formatted directory of Kafka" "tools/setup.sh servers"; }
  chmod 755 "$new"
  rm -rf "$home"
  # Another one that ran at the same time may have been first: then its work is as good.
  mv -T "$new" "$home" 2>/dev/null || [ -e "$home/pom.xml" ] || fail "Kafka" "tools/setup.sh servers"
  rm -rf "$new"
  trap - EXIT
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
    need_cargo_tool cargo-deny "$CARGO_DENY_VERSION" "two minutes"
    ;;
  fuzz)
    need_rust
    need_commands cc=gcc c++=g++
    need_cargo_tool cargo-fuzz "$CARGO_FUZZ_VERSION" "half a minute"
    ;;
  api-fuzz)
    need_commands curl=curl jq=jq
    need_python_packages tools/api-fuzz.txt "$cache/api-fuzz" schemathesis
    ;;
  deployment)
    need_commands openssl=openssl
    need_server_commands haproxy=haproxy
    need_go
    need_python_packages tools/deployment-check/kubernetes-validate.txt "$cache/kubernetes-validate" kubernetes-validate
    ;;
  servers)
    need_servers
    need_kafka
    ;;
  *)
    echo "usage: tools/setup.sh build|test|fuzz|api-fuzz|deployment|servers" >&2
    exit 2
    ;;
esac
