#!/bin/bash
# setup.sh: makes what a real SGLang on the CPU needs, once: a venv (2.8 GB, about 70 s) and a tiny model (5 s).
#
# State lives in $REALSGL_DIR (default ~/.cache/sglang-cpu). Any number of callers may run at once: one works, the
# others wait. Exit codes: 0 ready, 77 not to be had here (the last line says what is missing), else failed.
#   REALSGL_PYTHON  a CPython 3.11 (default: python3.11 from PATH); SGLang 0.5.23's wheel is built for no other
set -eu
SRC=$(cd "$(dirname "$0")" && pwd)
D=${REALSGL_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sglang-cpu}
V=$D/venv
LOCK=$SRC/requirements.lock
mkdir -p "$D"

exec 9> "$D/setup.lock"
flock 9

STAMP=$(cat "$LOCK" "$0" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$V/.ready" 2>/dev/null)" != "$STAMP" ]; then
  PYTHON=
  for candidate in ${REALSGL_PYTHON:-python3.11 /usr/bin/python3.11 python3}; do
    # Asked rather than looked for: a pyenv shim of that name may stand for nothing.
    if "$candidate" -c 'import sys, venv, ensurepip; assert sys.version_info[:2] == (3, 11)' 2>/dev/null; then
      PYTHON=$candidate
      break
    fi
  done
  if [ -z "$PYTHON" ]; then
    echo "no CPython 3.11 with venv (set REALSGL_PYTHON): the SGLang wheel runs on no other" >&2
    exit 77
  fi
  rm -f "$V/.ready"
  [ -x "$V/bin/pip" ] || { rm -rf "$V"; "$PYTHON" -m venv "$V"; }
  # The default build of torch for Linux is CUDA's, several GB; only pip's own resolution tells which one it would take.
  if ! "$V/bin/pip" install --quiet --disable-pip-version-check --dry-run --no-deps --ignore-installed \
      --report "$D/torch.json" "$(grep '^torch==' "$LOCK")" 2> "$D/torch.err"; then
    cat "$D/torch.err" >&2
    echo "no torch for the CPU: pip finds no $(grep '^torch==' "$LOCK")" >&2
    exit 77
  fi
  if ! "$V/bin/python" - "$D/torch.json" <<'PY'
import json, sys
metadata = json.load(open(sys.argv[1]))["install"][0]["metadata"]
sys.exit(any(need.startswith(("nvidia-", "cuda-")) for need in metadata.get("requires_dist", ())))
PY
  then
    echo "no torch for the CPU: pip would take the CUDA build (point it at an index of CPU wheels)" >&2
    exit 77
  fi
  "$V/bin/pip" install --quiet --disable-pip-version-check -r "$LOCK"
  # --no-deps: the rest of SGLang's pins is for CUDA only.
  "$V/bin/pip" install --quiet --disable-pip-version-check --no-deps sglang==0.5.23 xgrammar==0.2.7
  echo "$STAMP" > "$V/.ready"
fi

if [ ! -f "$D/tiny-llama/model.safetensors" ]; then
  rm -rf "$D/tiny-llama.part"
  "$V/bin/python" "$SRC/make_model.py" "$D/tiny-llama.part" --ctx 8192
  rm -rf "$D/tiny-llama"
  mv "$D/tiny-llama.part" "$D/tiny-llama"
fi
