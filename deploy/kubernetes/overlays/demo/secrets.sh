#!/usr/bin/env bash
# Writes the Secrets of the demo, with passwords by chance, for kubectl: secrets.sh | kubectl apply -f -
set -euo pipefail

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

secret() {
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: jangbu}\nstringData:\n' "$1"
  shift
  local pair
  for pair in "$@"; do printf '  %s: "%s"\n' "${pair%%=*}" "${pair#*=}"; done
}

redis=$(password)
roles=() # ROLE_PASSWORD=..., as deploy/postgres/roles.sh takes them
declare -A at
for place in log_owner/jangbu log_engine/jangbu log_reader/jangbu log_relay/jangbu views_owner/jangbu_views views_reader/jangbu_views \
  keys_owner/jangbu_keys keys_writer/jangbu_keys keys_reader/jangbu_keys; do
  role=${place%%/*}
  its=$(password)
  roles+=("${role^^}_PASSWORD=$its")
  at[$role]="postgres://$role:$its@postgres/${place#*/}"
done

cat <<'NAMESPACE'
apiVersion: v1
kind: Namespace
metadata:
  name: jangbu
  labels: {pod-security.kubernetes.io/enforce: restricted}
NAMESPACE
secret postgres "POSTGRES_PASSWORD=$(password)" "${roles[@]}"
secret redis "REDIS_PASSWORD=$redis"
cache="JANGBU_REDIS=redis://:$redis@redis:6379/0"
secret migrate "JANGBU_STORE=${at[log_owner]}" "JANGBU_VIEWS=${at[views_owner]}" "JANGBU_KEYS=${at[keys_owner]}"
secret command-api "JANGBU_STORE=${at[log_reader]}" "JANGBU_VIEWS=${at[views_reader]}" "JANGBU_KEYS=${at[keys_writer]}" "$cache"
secret engine "JANGBU_STORE=${at[log_engine]}" "$cache"
secret projections "JANGBU_STORE=${at[log_reader]}" "JANGBU_VIEWS=${at[views_owner]}" "$cache"
secret query-api "JANGBU_STORE=${at[log_reader]}" "JANGBU_VIEWS=${at[views_reader]}" "JANGBU_KEYS=${at[keys_reader]}" "$cache"
secret relay "JANGBU_STORE=${at[log_relay]}" "$cache"
