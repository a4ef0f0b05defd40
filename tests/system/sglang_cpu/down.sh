#!/bin/bash
# down.sh PORT: ends the server that up.sh PORT started: SIGTERM (it drains), SIGKILL to its process group after 20 s.
set -u
PORT=${1:?usage: down.sh PORT}
D=${REALSGL_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sglang-cpu}
S=${REALSGL_RUN:-$D/run-$PORT}
[ -f "$S/pid" ] || { echo "not up"; exit 0; }
PID=$(cat "$S/pid")
rm -f "$S/pid"
if ! tr '\0' ' ' < "/proc/$PID/cmdline" 2>/dev/null | grep -q -- "sglang.launch_server .*--port $PORT "; then
  # The main process is gone; what is left of its group is ended, unless the number stands for another group by now.
  [ "$(ps -o comm= -g "$PID" 2>/dev/null | grep -c '^sglang::')" -gt 0 ] && kill -KILL -- "-$PID" 2>/dev/null
  echo "was not running"
  exit 0
fi
kill -TERM "$PID" 2>/dev/null
for _ in $(seq 200); do
  kill -0 -- "-$PID" 2>/dev/null || { echo "down"; exit 0; }
  sleep 0.1
done
kill -KILL -- "-$PID" 2>/dev/null
echo "killed"
