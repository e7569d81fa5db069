# Sourced by the launch scripts, from the top of the repository: makes .venv with the pinned packages, sets malloc up.
# Usage: . launch/env.sh [extra ...]

python=""
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11 or newer is needed; set PYTHON to its path" >&2
  exit 2
fi

extras="$*"
stamp=.venv/installed${extras:+-${extras// /-}}
wanted="$(cat pyproject.toml constraints.txt | cksum)"
# without extras, an installation with some serves too
stamps=$([ -n "$extras" ] && echo "$stamp" || ls .venv/installed* 2>/dev/null || true)
if [ -z "$stamps" ] || ! grep -qsxF "$wanted" $stamps; then
  echo "installing into .venv (minutes, once)" >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${extras:+[${extras// /,}]}" >&2
  echo "$wanted" > "$stamp"
fi

# as in gen_jax/launcher.py, which says why
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
