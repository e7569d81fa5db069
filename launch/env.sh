# Sourced by the launch scripts, from the top of the repository: makes .venv with the pinned packages, sets malloc up.
# Usage: . launch/env.sh [extra ...]; takes $PYTHON, else the newest Python from 3.11 to 3.13 that it finds.

. launch/python.sh
python=${PYTHON:-$(find_python 3.13 3.12 3.11 || true)}
version=$(python_version "${python:-none}")
case $version in
  3.11 | 3.12 | 3.13) ;;
  *) echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON to its path" >&2 && exit 2 ;;
esac
# jax 0.10.2 is the last one for 3.11; 3.12 takes the versions of 3.13
case $version in 3.11) constraints=constraints/py311.txt ;; *) constraints=constraints/py313.txt ;; esac

extras="$*"
stamp=.venv/installed${extras:+-${extras// /-}}
wanted="$version $(cat pyproject.toml $constraints | cksum)"
# without extras, an installation with some serves too
stamps=$([ -n "$extras" ] && echo "$stamp" || ls .venv/installed* 2>/dev/null || true)
if [ -z "$stamps" ] || ! grep -qsxF "$wanted" $stamps; then
  echo "installing into .venv with Python $version (minutes, once)" >&2
  [ "$(python_version .venv/bin/python)" = "$version" ] || { rm -rf .venv && "$python" -m venv .venv; }
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" --editable ".${extras:+[${extras// /,}]}" >&2
  echo "$wanted" > "$stamp"
fi

# as in launch/launcher.py, which says why
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
