#!/usr/bin/env bash
# Checks everything that docs/deployment.md tells to run, by the code of those who would run it: Compose (compose-go), BuildKit (parser and
# linter), Kustomize (krusty) and the published schemas of Kubernetes, HAProxy itself, a shell, and PostgreSQL's roles by jangbu's tests.
#
#   tools/check-deployment.sh              the files of this repository
#   tools/check-deployment.sh self-test    that each check fails on a file that is broken
#
# `tools/setup.sh deployment` installs what it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
cache="${JANGBU_CACHE:-$HOME/.cache/jangbu}"
# The oldest release of Kubernetes that still has the fields we use, and the newest that the schemas are there for.
KUBERNETES_VERSIONS=(1.28 1.37)

tools/setup.sh deployment
export PATH="$PATH:/usr/local/go/bin:/usr/sbin"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd tools/deployment-check && GOFLAGS=-mod=readonly go build -trimpath -o "$scratch/deployment-check" .)

# Passwords that are none; whatever else the file takes for one is written in it.
passwords() {
  local name
  for name in POSTGRES LOG_OWNER LOG_ENGINE LOG_READER LOG_RELAY VIEWS_OWNER VIEWS_READER KEYS_OWNER KEYS_WRITER KEYS_READER REDIS GRAFANA; do
    printf '%s_PASSWORD=of-the-check\n' "$name"
  done
}

# Without the variables of whoever runs this.
deployment_check() { env -i PATH="$PATH" HOME="$HOME" $(passwords) "$scratch/deployment-check" "$@"; }

check_compose() { deployment_check compose docker-compose.yml; }

check_compose_kurrentdb() { deployment_check compose docker-compose.yml deploy/compose.kurrentdb.yml; }

# Without passwords it must not start.
check_compose_passwords() {
  ! env -i PATH="$PATH" HOME="$HOME" "$scratch/deployment-check" compose docker-compose.yml 2>"$scratch/refused" &&
    grep -q 'run tools/compose-env.sh first' "$scratch/refused" || { cat "$scratch/refused" >&2; return 1; }
  tools/compose-env.sh "$scratch/env" 2>/dev/null && cp "$scratch/env" "$scratch/env.first" && tools/compose-env.sh "$scratch/env" 2>/dev/null
  cmp "$scratch/env" "$scratch/env.first" && [ "$(stat -c %a "$scratch/env")" = 600 ] || return 1
  comm -23 <(grep -oE '\$\{[A-Z_]+_PASSWORD:\?' docker-compose.yml | tr -d '${:?' | sort -u) <(cut -d= -f1 "$scratch/env" | sort) |
    { ! grep . ; }
}

check_dockerfile() { deployment_check dockerfile Dockerfile; }

check_kubernetes() {
  local directory
  for directory in base overlays/demo overlays/production; do
    deployment_check kustomize "deploy/kubernetes/$directory" >"$scratch/built.yaml" || return 1
    validate "$scratch/built.yaml" || { echo "in deploy/kubernetes/$directory" >&2; return 1; }
  done
}

check_kubernetes_secrets() {
  deploy/kubernetes/overlays/demo/secrets.sh >"$scratch/secrets.yaml" && validate "$scratch/secrets.yaml" &&
    comm -23 <(grep -rhoE 'secretRef: \{name: [a-z-]+' deploy/kubernetes | sed 's/.* //' | sort -u) \
      <(grep -oE '^metadata: \{name: [a-z-]+' "$scratch/secrets.yaml" | sed 's/.* //' | sort) | { ! grep . ; }
}

validate() {
  local version
  for version in "${KUBERNETES_VERSIONS[@]}"; do
    "$cache/kubernetes-validate/bin/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "$1" || return 1
  done
}

check_haproxy_dns() {
  haproxy_takes deploy/haproxy/backends-dns.cfg ENTRY_COMMAND_API=localhost:8080 ENTRY_QUERY_API=localhost:8080
}

check_haproxy_processes() {
  haproxy_takes deploy/haproxy/backends-processes.cfg ENTRY_COMMAND_API_1=127.0.0.1:8081 ENTRY_COMMAND_API_2=127.0.0.1:8082 \
    ENTRY_QUERY_API_1=127.0.0.1:8083 ENTRY_QUERY_API_2=127.0.0.1:8084
}

# With and without web sites that may call, with and without TLS. A warning is a mistake.
haproxy_takes() {
  local backends=$1 listen
  shift
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=shop -keyout "$scratch/key.pem" -out "$scratch/certificate.pem" 2>/dev/null
  cat "$scratch/certificate.pem" "$scratch/key.pem" >"$scratch/shop.pem"
  for listen in ':8080' ":8443 ssl crt $scratch/shop.pem alpn h2,http/1.1"; do
    for origins in '' 'https://shop.example https://admin.example'; do
      env -i PATH="$PATH" ENTRY_LISTEN="$listen" ENTRY_STATS=:8404 ENTRY_ORIGINS="$origins" "$@" \
        haproxy -c -f deploy/haproxy/haproxy.cfg -f "$backends" >"$scratch/haproxy" 2>&1 && ! grep -q WARNING "$scratch/haproxy" ||
        { cat "$scratch/haproxy" >&2; return 1; }
    done
  done
}

# A process refuses a setting that it does not know.
check_settings() {
  comm -23 <(grep -rhoE 'JANGBU_[A-Z_]+[A-Z]' docker-compose.yml Dockerfile deploy | sort -u) \
    <(grep -oE 'JANGBU_[A-Z_]+[A-Z]' "$root/.env.example" | sort -u) | { ! grep . ; }
}

check_scripts() {
  local script
  for script in deploy/postgres/roles.sh deploy/kubernetes/overlays/demo/secrets.sh tools/compose-env.sh tools/check-deployment.sh; do
    bash -n "$script" && [ -x "$script" ] || { echo "$script" >&2; return 1; }
  done
}

CHECKS=(compose compose_kurrentdb compose_passwords dockerfile kubernetes kubernetes_secrets haproxy_dns haproxy_processes settings scripts)

check_all() {
  local name failed=0
  for name in "${CHECKS[@]}"; do
    if "check_$name"; then
      printf 'ok    %s\n' "$name"
    else
      printf 'WRONG %s\n' "$name"
      failed=1
    fi
  done
  return $failed
}

# broken CHECK FILE SED-SCRIPT: this check says no when this file is changed so.
broken() {
  local check=$1 file=$2 change=$3 copy="$scratch/broken"
  rm -rf "$copy"
  mkdir -p "$copy/tools"
  cp -r docker-compose.yml Dockerfile deploy "$copy/"
  cp tools/compose-env.sh tools/check-deployment.sh "$copy/tools/"
  sed -i -E "$change" "$copy/$file"
  ! cmp -s "$copy/$file" "$file" || { echo "WRONG the change of $file changes nothing: $change"; return 1; }
  if (cd "$copy" && "check_$check") >"$scratch/said" 2>&1; then
    echo "WRONG $check takes $file with: $change"
    return 1
  fi
  printf 'ok    %s refuses: %s\n' "$check" "$(tail -n 1 "$scratch/said" | cut -c 1-140)"
}

self_test() {
  local failed=0
  each() { broken "$@" || failed=1; }
  each compose docker-compose.yml 's/^    command: \[serve, --role, relay\]/    comand: [serve]/'
  each compose docker-compose.yml 's/networks: \[provider, operators\]/networks: [elsewhere]/'
  each compose docker-compose.yml 's/replicas: 2/replicas: 1/'
  each compose docker-compose.yml 's/\$\{GRAFANA_PASSWORD:.*\}/admin/'
  each compose docker-compose.yml 's|log_relay:\$\{[^}]*\}|log_relay:easy|'
  each compose docker-compose.yml 's/"127.0.0.1:9090:9090"/"9090:9090"/'
  each compose docker-compose.yml 's|image: redis:7.2-bookworm|image: redis|'
  each compose docker-compose.yml 's|deploy/postgres/roles.sh:|deploy/postgres/rolls.sh:|'
  each compose docker-compose.yml '/restart: "no"/d'
  each compose_kurrentdb deploy/compose.kurrentdb.yml 's/environment:/enviroment:/'
  each compose_passwords docker-compose.yml 's/run tools.compose-env.sh first/-/; s/_PASSWORD:\?-/_PASSWORD:-x/'
  each compose_passwords docker-compose.yml 's/GRAFANA_PASSWORD/DASHBOARD_PASSWORD/'
  each dockerfile Dockerfile 's/^COPY --from=build/COPY --from=bild/'
  each dockerfile Dockerfile 's/^WORKDIR/WORKDIRR/'
  each dockerfile Dockerfile '/^USER/d'
  each dockerfile Dockerfile '/^HEALTHCHECK/d'
  each dockerfile Dockerfile 's/^ENTRYPOINT .*/ENTRYPOINT jangbu/'
  each dockerfile Dockerfile 's/debian:bookworm-slim/debian/'
  each dockerfile Dockerfile 's/^(EXPOSE.*)/\1\nENV API_TOKEN=secret/'
  each kubernetes deploy/kubernetes/base/process.yaml 's/terminationGracePeriodSeconds: 75/terminationGracePeriodSeconds: soon/'
  each kubernetes deploy/kubernetes/base/process.yaml 's/imagePullPolicy: IfNotPresent/imagePulPolicy: IfNotPresent/'
  each kubernetes deploy/kubernetes/base/process.yaml 's/httpGet: \{path: .livez, port: http\}/httpGet: {path: \/livez}/'
  each kubernetes deploy/kubernetes/base/entry.yaml 's/maxUnavailable: 1/maxUnavailables: 1/'
  each kubernetes deploy/kubernetes/base/engine.yaml 's/replicas: 2/replica: 2/'
  each kubernetes deploy/kubernetes/base/engine.yaml 's/^kind: Deployment/kind: Deploiment/'
  each kubernetes deploy/kubernetes/base/relay.yaml 's/secretRef: \{name: relay\}/secretRef: {name: relais}/'
  each kubernetes deploy/kubernetes/base/process.yaml 's/port: http\}/port: htttp}/'
  each kubernetes deploy/kubernetes/base/process.yaml 's/runAsNonRoot: true/runAsNonRoot: false/'
  each kubernetes deploy/kubernetes/base/entry.yaml 's/configMap: \{name: entry-configuration\}/configMap: {name: entry-config}/'
  each kubernetes deploy/kubernetes/base/command-api.yaml 's/  selector: \{app.kubernetes.io\/name: command-api\}/  selector: {app.kubernetes.io\/name: commands}/'
  each kubernetes deploy/kubernetes/base/network.yaml 's/values: \[command-api, query-api\]/values: [commands]/'
  each kubernetes deploy/kubernetes/base/kustomization.yaml 's/- relay.yaml/- relais.yaml/'
  each kubernetes deploy/kubernetes/overlays/demo/servers.yaml 's/tcpSocket: \{port: redis\}/tcpSocket: {prt: redis}/'
  each kubernetes deploy/kubernetes/overlays/production/tls.yaml 's/secret: \{secretName:/secret: {name:/'
  each kubernetes_secrets deploy/kubernetes/overlays/demo/secrets.sh 's/^secret relay/secret relais/'
  each haproxy_dns deploy/haproxy/haproxy.cfg 's/option redispatch 1/option redispach 1/'
  each haproxy_dns deploy/haproxy/haproxy.cfg 's/^    use_backend query-api/    use_backend queries/'
  each haproxy_dns deploy/haproxy/backends-dns.cfg 's/resolvers names resolve/resolvers nobody resolve/'
  each haproxy_processes deploy/haproxy/backends-processes.cfg 's/from upstream/from downstream/'
  each haproxy_processes deploy/haproxy/haproxy.cfg 's/^(    use_backend query-api.*)/\1\n    http-request deny if { path \/never }/'
  each settings docker-compose.yml 's/JANGBU_DRAIN:/JANGBU_DRAINED:/'
  each scripts deploy/postgres/roles.sh 's/^done$/don/'
  return $failed
}

case "${1:-}" in
  '') check_all ;;
  self-test) self_test ;;
  *)
    echo "usage: tools/check-deployment.sh [self-test]" >&2
    exit 2
    ;;
esac
