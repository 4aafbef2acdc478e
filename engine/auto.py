"""
--augment auto: which augmentation is best for these texts, decided before the run begins.
"""

import json
from collections.abc import Callable

from augment import AUGMENTATIONS
from engine import distributed
from engine.arguments import Arguments
from engine.augmentations import check_augmentation
from engine.corpus import load_corpus
from engine.files import InputError, read_json, write_json
from engine.run_folder import beside


def decide(args: Arguments, run: Callable[[Arguments], None]) -> None:
    """
    Sets args.chosen_augment: each augmentation that is available here, and is for the language of
    the texts, is tried in a run of its own below the run's folder. The best macro-F1 on the
    validation texts counts, after the last epoch; a run without such texts holds out a tenth of its
    training texts in these trials. What was decided before is kept.
    """
    folder = beside(args.folder) if args.overwrite else args.folder
    path = folder / "augmentations.json"
    if path.exists() and not args.overwrite:
        args.chosen_augment = read_json(path)["chosen"]
        return
    scores, corpus = {}, load_corpus(args)
    for name in AUGMENTATIONS:
        try:
            check_augmentation(name, corpus.train_texts)
        except InputError as error:
            print(f"auto leaves out {name}: {error}", flush=True)
            continue
        print(f"auto tries {name}", flush=True)
        trial = args.but(
            augment=name,
            chosen_augment=name,
            val_fraction=args.val_fraction or (0.0 if corpus.val_texts else 0.1),
            no_weights=True,
            plots=False,
            output_dir=folder / "augmentations",
            overwrite=args.overwrite and "others",  # not what a start that was cut finished
        )
        run(trial)
        distributed.barrier()  # for rank 0's files
        last = (trial.folder / "metrics.jsonl").read_text().splitlines()[-1]
        scores[name] = json.loads(last)["val"]["macro_f1"]
    args.chosen_augment = max(scores, key=lambda name: scores[name])
    print(
        "auto: macro-F1 on held-out texts "
        + ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        + f"; takes {args.chosen_augment}",
        flush=True,
    )
    if distributed.is_main():
        write_json(path, {"macro_f1_on_validation": scores, "chosen": args.chosen_augment})
