"""
Our word substitution beside the authors' own aug_text, and its speed.

    python benchmarks/augment.py --data_dir ../shared/datasets --json augment.json

Both sides are compared lower-cased and as runs of letters and digits alone, because the authors'
texts were re-spaced by their tool ("celebrities ' real" became "celebrity ' literal"). Share of
words = words of the original that the other text lacks, by alignment (change_shares).
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from augment import SUBSTITUTION_RATE, synonyms, word_substitution
from data import InputError, load_wordnet
from engine.augmentations import change_shares

FILES = {"TREC": "trec/TREC_Train_aug.json", "Ohsumed": "ohsumed/ohsumed_Train_aug.json"}
SPEED_FILE = "dblp/text_train.txt"


def normalised(texts: list[str]) -> list[str]:
    """Lower case, words joined by one space, no punctuation."""
    return [" ".join(re.findall(r"\w+", text.lower())) for text in texts]


def read(path: Path) -> str:
    """The file's text; InputError where it is missing."""
    if not path.is_file():
        raise InputError(f"{path} not found; give the folder that holds it as --data_dir")
    return path.read_text(encoding="utf-8")


def compare(texts: list[str], theirs: list[str], seed: int, rate: float) -> dict[str, float]:
    """Shares, in percent, of texts and of words changed by the authors and by us."""
    ours = word_substitution(texts, seed=seed, rate=rate)
    by_authors = change_shares(normalised(texts), normalised(theirs))
    by_us = change_shares(normalised(texts), normalised(ours))
    return {
        "texts_authors": 100 * by_authors[0],
        "texts_ours": 100 * by_us[0],
        "words_authors": 100 * by_authors[1],
        "words_ours": 100 * by_us[1],
    }


def texts_per_second(texts: list[str], seed: int, rate: float) -> float:
    """Speed on one core with WordNet loaded and no word looked up before."""
    load_wordnet()
    synonyms.cache_clear()
    start = time.perf_counter()
    word_substitution(texts, seed=seed, rate=rate)
    return len(texts) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="holds trec/ ohsumed/ dblp/")
    parser.add_argument("--rate", type=float, default=SUBSTITUTION_RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    args = parser.parse_args()

    rows = {}
    try:
        for name, file in FILES.items():
            pairs = json.loads(read(args.data_dir / file))
            rows[name] = compare(
                [pair["text"] for pair in pairs],
                [pair["aug_text"] for pair in pairs],
                args.seed,
                args.rate,
            )
        titles = read(args.data_dir / SPEED_FILE).splitlines()
        speed = texts_per_second(titles, args.seed, args.rate)
    except InputError as error:
        parser.exit(2, f"{error}\n")

    print(f"rate {args.rate}, seed {args.seed}; DBLP: {speed:,.0f} texts a second\n")
    print("| | texts changed, authors | ours | words changed, authors | ours |")
    print("|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f} %" for value in row.values()) + " |")
    if args.json:
        table = {"rate": args.rate, "seed": args.seed, "dblp_texts_per_second": speed, **rows}
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
