"""
Times a training step of main.py's own loop: methods and the encoder alone, forward and backward, on
the same tokens in two views; and SharpReCL in micro batches.

    python benchmarks/step.py
    python benchmarks/step.py --encoder bert-base --device cuda --amp bf16
    python benchmarks/step.py --methods la bcl --own_views     # each with the views that it has
"""

import measure

from engine.optimizer import autocast
from main import observe


def loop(run: measure.Prepared, rows):
    """Returns a function that runs train_epoch on one batch."""
    observe(run.model, run.loader)  # SPCL takes its prototypes from this and the next line
    run.loader.epoch_batches(1)
    run.loader.epoch_batches = lambda epoch: [rows]  # shadows the method
    return run.epoch


def encoder_alone(run: measure.Prepared, rows):
    def passes():
        run.model.train()
        texts, _ = run.loader.batch(rows)
        with autocast(run.loader.device, run.args.amp):
            feat = run.model.encode(run.loader.forward, texts)
        feat.float().sum().backward()
        run.optimizer.zero_grad()

    return passes


def benchmark() -> None:
    args = measure.parse(
        __doc__,
        *measure.OF_RUNS,
        ("--batch_size", {"type": int, "default": 128}),
        ("--micro_batch", {"type": int, "default": 16}),
        ("--methods", {"nargs": "+", "default": ["sclce", "sharprecl"]}),
        ("--own_views", {"action": "store_true", "help": "not two of every text"}),
    )
    ours = measure.run_of(args, "--method", "sharprecl")
    views = None if args.own_views else ours.model.views
    rows = ours.loader.epoch_batches(1)[0]
    forms = {"encoder alone": encoder_alone(ours, rows)}
    for method in args.methods:
        forms[method] = loop(measure.run_of(args, "--method", method, views=views), rows)
    micro = measure.run_of(args, "--micro_batch", str(args.micro_batch))
    forms[f"sharprecl, --micro_batch {args.micro_batch}"] = loop(micro, rows)
    tokens = sum(int(view.lengths[rows].sum()) for view in ours.loader.views)
    about = f"{args.encoder}, {len(rows)} texts, {tokens:,} tokens in two views, --amp {args.amp}"
    measure.compare(args, forms, about, ["encoder alone", args.methods[0]])


if __name__ == "__main__":
    benchmark()
