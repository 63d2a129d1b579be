#!/usr/bin/env bash
# Writes the passwords that docker-compose.yml asks for into .env, each by chance. What is there already stays.
#
#   tools/compose-env.sh [FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
file="${1:-.env}"
umask 077
touch "$file"
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
for name in POSTGRES LOG_OWNER LOG_ENGINE LOG_READER LOG_RELAY VIEWS_OWNER VIEWS_READER KEYS_OWNER KEYS_WRITER KEYS_READER REDIS GRAFANA; do
  # Part of an address, so nothing that an address would have to quote.
  grep -q "^${name}_PASSWORD=" "$file" || printf '%s_PASSWORD=%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >>"$file"
done
echo "$file has every password that docker-compose.yml asks for" >&2
