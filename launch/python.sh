# Sourced: find_python 3.13 3.12 prints the path of the first of these Pythons that is here, also under pyenv.

find_python() {
  local wanted candidate
  for wanted in "$@"; do
    for candidate in "python$wanted" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$wanted".*/bin/python python3; do
      if [ "$(python_version "$candidate")" = "$wanted" ]; then
        command -v "$candidate"
        return
      fi
    done
  done
  return 1
}

python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}
