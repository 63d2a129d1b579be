#!/usr/bin/env bash
# Throws at a running shop what its description allows and what it forbids: schemathesis against /openapi.json as buyer, seller, admin
# and nobody, then GraphQL questions of our own (tools/graphql_fuzz.py), then one honest order. The shop is a demo of its own on a free
# port with scratch data; operators have another one, whose payment provider never answers, so that there is something for them to do.
# Everything is seeded; nothing needs the network once the cache is warm.
#
#   tools/api-fuzz.sh PATH-TO-JANGBU
set -euo pipefail

jangbu=$(realpath "${1:?usage: tools/api-fuzz.sh PATH-TO-JANGBU}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh api-fuzz

root=$PWD
seed=1
examples=100
python="${JANGBU_CACHE:-$HOME/.cache/jangbu}/api-fuzz/bin/python"
scratch=$(mktemp -d)
started=()

finish() {
  local status=$? process
  for process in "${started[@]}"; do
    kill "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
  done
  if [ $status -ne 0 ] && [ -s "$scratch/server" ]; then
    echo "the server's last lines:"
    tail -n 20 "$scratch/server" | cut -c 1-400 | sed 's/^/  | /'
  fi
  rm -rf "$scratch"
  exit $status
}
trap finish EXIT

# serve NAME: starts a shop with the settings of the environment; $server is its process, $address where it listens.
serve() {
  local data="$scratch/data-$1" log="$scratch/$1"
  JANGBU_LOG=warn "$jangbu" serve --demo --listen 127.0.0.1:0 --data "$data" > "$log" 2>&1 &
  server=$!
  started+=("$server")
  for _ in $(seq 300); do
    [ -s "$data/address" ] && curl -fsS -o "$scratch/ready" "http://$(cat "$data/address")/readyz" 2>/dev/null && break
    kill -0 "$server" 2>/dev/null || { echo "the server did not start"; exit 1; }
    sleep 0.1
  done
  address=$(cat "$data/address")
  curl -fsS -o "$scratch/ready" "http://$address/readyz" || { echo "the server was not ready after 30 seconds"; exit 1; }
}

# call METHOD PATH TOKEN [BODY]: the answer's body.
call() {
  curl -fsS -X "$1" "http://$address$2" -H "Authorization: Bearer $3" -H 'Content-Type: application/json' -H "Idempotency-Key: $RANDOM$RANDOM" -d "${4-}"
}
token() {
  call POST /api/v1/auth/login none "{\"email\": \"$1@jangbu.dev\", \"password\": \"jangbu-demo\"}" | jq -r .accessToken
}

# What exists when the calls name an id: the buyer's account, a product beside the demo's, orders that wait to be paid as the examples pay.
coffee=0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0
price='{"amount": 3000, "currency": "KRW"}'
home='{"recipient": "김민지", "street": "세종대로 110", "city": "서울", "postalCode": "04524"}'
# orders COUNT [KEY]: places them, paid with a key of the provider's when one is given, and says their ids.
orders() {
  local number payment
  for number in $(seq "$1"); do
    payment="{\"method\": \"CARD\"${2:+, \"paymentKey\": \"$2_$number\"}}"
    call POST /api/v1/orders "$buyer" "{\"lines\": [{\"productId\": \"$coffee\", \"quantity\": 3}], \"shippingAddress\": $home, \"payment\": $payment}"
  done | jq -r .orderId
}
export SCHEMATHESIS_HOOKS=tools.api_fuzz_hooks

# Left out: positive_data_acceptance, because a rule of the shop refuses much that is well-formed; use_after_free and
# ensure_resource_availability, because nothing here is deleted for good; object_level_authorization needs two users in one run.
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance
checks+=,negative_data_rejection,missing_required_header,unsupported_method,allow_header_conformance,dry_runs_answer_events

failed=0
# fuzz WHO PATHS [OPTION...]
fuzz() {
  local who="$1" paths="$2" started=$SECONDS
  shift 2
  # It keeps notes where it stands.
  if (cd "$scratch" && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root" "$python" -m schemathesis.cli run "http://$address/openapi.json" --include-path-regex "$paths" "$@" \
    --checks "$checks" --phases examples,coverage,fuzzing --max-examples "$examples" --seed "$seed" --generation-database none \
    --suppress-health-check all --warnings off --request-timeout 10 --no-color) > "$scratch/$who" 2>&1; then
    echo "as $who: $(grep -o '[0-9]* generated' "$scratch/$who" | tail -n 1) ... ok, $((SECONDS - started)) s"
    return
  fi
  failed=$((failed + 1))
  echo "as $who ... FAILED"
  sed -n '/^=* \(FAILURES\|ERRORS\)/,/^=* SUMMARY/p' "$scratch/$who" | cut -c 1-600 | sed 's/^/  | /'
  [ -s "$scratch/$who" ] && tail -n 12 "$scratch/$who" | sed 's/^/  | /'
}

# understood NAME: how much of what was asked the shop understood. Without answers of 2xx little was tested.
understood() {
  curl -fsS "http://$address/metrics" |
    sed -nE 's/^jangbu_http_requests_total\{.*method="([^"]*)",route="([^"]*)",status="([^"]*)"\} ([0-9]+)$/\3 \4 \1 \2/p' |
    awk -v shop="$1" '
      { answers[$1] += $2; if ($3 != "other") { asked[$3 " " $4] += $2; understood[$3 " " $4] += $1 == "2xx" ? $2 : 0 } }
      END {
        printf "%s: %d answers of 2xx, %d of 4xx, %d of 5xx\n", shop, answers["2xx"], answers["4xx"], answers["5xx"]
        for (call in asked) if (asked[call] && !understood[call]) print "never understood: " call
      }'
}

# A provider that takes every call and answers none.
"$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0), backlog=128); print(s.getsockname()[1], flush=True); kept = [s.accept() for _ in iter(int, 1)]' > "$scratch/provider" &
started+=($!)
for _ in $(seq 100); do [ -s "$scratch/provider" ] && break; sleep 0.1; done
JANGBU_GATEWAY=toss JANGBU_TOSS__URL="http://127.0.0.1:$(cat "$scratch/provider")" JANGBU_TOSS__SECRET_KEY=silent \
  JANGBU_PAYMENT__TIMEOUT=100ms JANGBU_PAYMENT__STUCK_AFTER=200ms serve operators
buyer=$(token buyer) admin=$(token admin)
API_FUZZ_IDS=$(orders 18 silent | jq -Rsc 'split("\n") | map(select(. != ""))
  | {"/api/v1/ops/processes/{id}/resume": .[:6], "/api/v1/ops/processes/{id}/compensate": .[6:12], "/api/v1/ops/processes/{id}/resolve": .[12:]}')
export API_FUZZ_IDS
for _ in $(seq 300); do
  stuck=$(call GET '/api/v1/ops/processes?stuck=true' "$admin" | jq '.items | length')
  [ "$stuck" -eq 18 ] && break
  sleep 0.1
done
[ "$stuck" -eq 18 ] || { echo "only $stuck of 18 orders needed an operator after 30 seconds"; exit 1; }
fuzz operator '/ops/' -H "Authorization: Bearer $admin"
understood operators

serve server
buyer=$(token buyer) seller=$(token seller) admin=$(token admin)
tea=$(call POST /api/v1/products "$seller" "{\"sku\": \"TEA\", \"name\": \"Tea\", \"price\": $price, \"stock\": {\"onHand\": 500}}" | jq -r .productId)
account=$(call POST /graphql "$buyer" '{"query": "{ me { id } }"}' | jq -r .data.me.id)
API_FUZZ_IDS=$(orders 12 | jq -Rsc --arg account "$account" --arg product "$tea" 'split("\n") | map(select(. != ""))
  | {"/api/v1/accounts": [$account], "/api/v1/products": [$product], "/api/v1/orders": .[:6], "/api/v1/orders/{id}/payment": .[6:]}')
fuzz buyer '^/api/v1/orders' -H "Authorization: Bearer $buyer"
fuzz seller '^/api/v1/products' -H "Authorization: Bearer $seller"
fuzz admin '/(deposits|receipts|cancellation)$' -H "Authorization: Bearer $admin"
# Here most of the time goes into passwords, which are slow on purpose.
examples=25
fuzz nobody '/(auth/|accounts$|\.well-known/|orders|products$)'
if [ "$failed" -eq 0 ]; then
  echo "test result: ok. 5 passed; 0 failed; schemathesis, seed $seed, $SECONDS s"
else
  echo "test result: FAILED. $((5 - failed)) passed; $failed failed; schemathesis, seed $seed, $SECONDS s"
fi

understood server

# The tokens of before may be about to expire.
tokens=$(jq -cn --arg buyer "$(token buyer)" --arg seller "$(token seller)" --arg admin "$(token admin)" '{BUYER: $buyer, SELLER: $seller, ADMIN: $admin}')
"$python" tools/graphql_fuzz.py "$address" "$server" "$tokens" || failed=$((failed + 1))
[ "$failed" -eq 0 ]
