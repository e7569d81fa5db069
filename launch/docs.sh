#!/usr/bin/env bash
# Installs, then builds the pages of docs/ into site/; a broken link or docstring is an error. Needs no network to build.
# Usage: bash launch/docs.sh [mkdocs arguments]; `serve` shows the pages while you edit them.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/env.sh docs
[ $# -gt 0 ] || set -- build --strict
NO_MKDOCS_2_WARNING=1 exec .venv/bin/mkdocs "$@"
