#!/usr/bin/env bash
# Does what README.md shows between <!-- purchase --> and <!-- /purchase -->, word for word, on a shop of its own: every block
# marked ```sh or ```bash there, in one shell that stops at the first failure. Passes when the last word printed is CONFIRMED.
#
#   tools/readme-test.sh PATH-TO-JANGBU
#
# Only the address differs: the shop listens on a free port, which takes the place of 127.0.0.1:8080 in the commands.
set -euo pipefail

jangbu=$(realpath "${1:?usage: tools/readme-test.sh PATH-TO-JANGBU}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d)
server=

finish() {
  local status=$?
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  if [ $status -ne 0 ]; then
    [ -s "$scratch/output" ] && sed 's/^/  | /' "$scratch/output" | tail -n 40
    [ -s "$scratch/server" ] && { echo "the server's last lines:"; tail -n 20 "$scratch/server" | sed 's/^/  | /'; }
    echo "test result: FAILED. 0 passed; 1 failed; README.md, the purchase"
  fi
  rm -rf "$scratch"
  exit $status
}
trap finish EXIT

awk '/<!-- purchase -->/ { on = 1 } /<!-- \/purchase -->/ { on = 0 }
     on && /^```(sh|bash)[ \t]*$/ { code = 1; next } /^```/ { code = 0 } on && code' README.md > "$scratch/commands"
[ -s "$scratch/commands" ] || { echo "README.md has no commands between <!-- purchase --> and <!-- /purchase -->"; exit 1; }

free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  echo "no free port on 127.0.0.1" >&2
  return 1
}
port=$(free_port)

"$jangbu" serve --demo --listen "127.0.0.1:$port" --data "$scratch/data" > "$scratch/server" 2>&1 &
server=$!
for _ in $(seq 300); do
  curl -fsS -o "$scratch/ready" "http://127.0.0.1:$port/readyz" 2>/dev/null && break
  kill -0 "$server" 2>/dev/null || { echo "the server did not start"; exit 1; }
  sleep 0.1
done
curl -fsS -o "$scratch/ready" "http://127.0.0.1:$port/readyz" || { echo "the server was not ready after 30 seconds"; exit 1; }

sed -E "s/(127\.0\.0\.1|localhost):8080/127.0.0.1:$port/g" "$scratch/commands" > "$scratch/script"
mkdir "$scratch/home"
(cd "$scratch/home" && timeout 120 bash -euo pipefail "$scratch/script") > "$scratch/output" 2>&1 || { echo "a command of the README failed"; exit 1; }
[[ $(tail -n 1 "$scratch/output") =~ CONFIRMED[^A-Za-z]*$ ]] || { echo "the README's purchase did not end CONFIRMED"; exit 1; }
echo "test result: ok. 1 passed; 0 failed; README.md, the purchase ($(grep -c . "$scratch/commands") lines)"
