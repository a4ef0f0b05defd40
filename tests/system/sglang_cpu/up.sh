#!/bin/bash
# up.sh PORT [more SGLang flags]: a REAL SGLang (PyPI 0.5.23) on the CPU, with a tiny random model, on 127.0.0.1:PORT.
#
# Sets everything up the first time (see setup.sh), then starts in 15-25 s and returns when the server is ready.
# For tests only. Stop it with down.sh PORT. Exit codes: 0 ready, 77 not to be had here, else failed.
#   REALSGL_DIR   venv and model (default ~/.cache/sglang-cpu)
#   REALSGL_RUN   where this server's log and pid go (default $REALSGL_DIR/run-PORT)
#   REALSGL_NAME  served model name (default tiny-llama)
#   REALSGL_WAIT  seconds to wait until it is ready (default 300)
set -eu
PORT=${1:?usage: up.sh PORT [SGLang flags]}; shift
SRC=$(cd "$(dirname "$0")" && pwd)
D=${REALSGL_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sglang-cpu}
V=$D/venv
S=${REALSGL_RUN:-$D/run-$PORT}
mkdir -p "$S"

# A pid alone proves nothing, for pids are used again: the process must be a server on this port.
is_ours() { tr '\0' ' ' < "/proc/$1/cmdline" 2>/dev/null | grep -q -- "sglang.launch_server .*--port $PORT "; }

if [ -f "$S/pid" ] && is_ours "$(cat "$S/pid")"; then
  echo "already up on $PORT (pid $(cat "$S/pid"))"
  exit 0
fi
rm -f "$S/pid"
if (exec 3<> "/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
  echo "port $PORT is taken by something else" >&2
  exit 1
fi

"$SRC/setup.sh"

export PYTHONPATH=$SRC/shim           # import stand-ins for torchvision and sgl_kernel (neither is called on this path)
export SGLANG_USE_CPU_ENGINE=1        # without it --device cpu is not taken as the CPU engine
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
cd "$S"
# A process group of its own, so that down.sh can end the scheduler and the detokenizer with it.
# --sleep-on-idle: without it an idle scheduler spins at 100 % of a core.
setsid "$V/bin/python" -m sglang.launch_server \
  --model-path "$D/tiny-llama" --served-model-name "${REALSGL_NAME:-tiny-llama}" \
  --host 127.0.0.1 --port "$PORT" \
  --device cpu --attention-backend torch_native --sampling-backend pytorch --disable-overlap-schedule \
  --mem-fraction-static 0.1 --max-total-tokens 20000 --max-running-requests 16 --chunked-prefill-size 2048 \
  --enable-metrics --enable-cache-report --sleep-on-idle "$@" > "$S/log" 2>&1 < /dev/null &
PID=$!
echo "$PID" > "$S/pid"

WAIT=${REALSGL_WAIT:-300}
SECONDS=0
while [ "$SECONDS" -lt "$WAIT" ]; do
  if ! kill -0 "$PID" 2>/dev/null; then
    echo "died while starting; the end of $S/log:" >&2
    tail -30 "$S/log" >&2
    rm -f "$S/pid"
    exit 1
  fi
  if grep -q "fired up and ready to roll" "$S/log"; then
    echo "ready on 127.0.0.1:$PORT after $SECONDS s, pid $PID, log $S/log"
    exit 0
  fi
  sleep 0.2
done
echo "not ready in $WAIT s; the end of $S/log:" >&2
tail -30 "$S/log" >&2
REALSGL_RUN=$S "$SRC/down.sh" "$PORT" >&2
exit 1
