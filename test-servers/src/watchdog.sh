# Waits until the process that started it is gone, however it went, then ends a server and removes its scratch directory.
#
#   sh -c THIS watchdog SCRATCH SIGNAL
#
# Standard input is a pipe whose other end only that process holds. SCRATCH/pid names the server, if one runs.
trap '' HUP INT TERM
while read -r _; do :; done

scratch=$1
pid=$(cat "$scratch/pid" 2>/dev/null)

alive() {
  kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*[ZX]' "/proc/$1/status"
}

if [ -n "$pid" ] && alive "$pid"; then
  children=$(grep -ls "^PPid:[[:space:]]*$pid\$" /proc/[0-9]*/status | cut -d/ -f3)
  # One that is frozen hears nothing. Word splitting is meant.
  kill -s CONT $children "$pid" 2>/dev/null
  kill -s "$2" "$pid" 2>/dev/null
  tries=0
  while alive "$pid" && [ "$tries" -lt 250 ]; do
    sleep 0.02
    tries=$((tries + 1))
  done
  for each in "$pid" $children; do
    alive "$each" && kill -s KILL "$each" 2>/dev/null
  done
fi

# A PostgreSQL that was killed leaves its interlock behind, of which the system has a limited number.
interlock=$(sed -n '7s/.* //p' "$scratch/data/postmaster.pid" 2>/dev/null)
[ -z "$interlock" ] || ipcrm --shmem-id "$interlock" 2>/dev/null
rm -rf -- "$scratch"
