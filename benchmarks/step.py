"""
A training step of main.py's own loop: the methods beside the encoder alone, forward and backward,
on the same tokens in two views; and SharpReCL in micro batches.

    python benchmarks/step.py
    python benchmarks/step.py --encoder bert-base --device cuda --amp bf16
    python benchmarks/step.py --methods la bcl --own_views     # each with the views that it has
"""

import measure

from engine.optimizer import autocast
from main import observe

STEPS = 4  # of a repeat: what the loop does once an epoch weighs as in a short epoch


def loop(run: measure.Prepared, rows):
    """train_epoch on the same batch, so many times."""
    observe(run.model, run.loader)  # SPCL takes its prototypes from this and the next line
    run.loader.epoch_batches(1)

    def steps(number: int = STEPS):
        run.loader.epoch_batches = lambda epoch: [rows] * number  # shadows the method
        run.epoch()

    return steps


def encoder_alone(run: measure.Prepared, rows):
    def passes(number: int = STEPS):
        run.model.train()
        for _ in range(number):
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
    seconds = measure.interleaved(forms, args.repeats, args.device, args.clock)
    memory = {
        name: measure.peak_memory(lambda: form(1), args.device) for name, form in forms.items()
    }
    tokens = sum(int(view.lengths[rows].sum()) for view in ours.loader.views)
    work, rate = measure.flops(ours, rows), measure.machine_rate(args.device, args.amp)
    lines = [
        [
            name,
            measure.spread([1e3 * s / STEPS for s in seconds[name]], 0, " ms"),
            measure.spread(measure.ratios(seconds, name, "encoder alone"), 3),
            measure.spread(measure.ratios(seconds, name, args.methods[0]), 3),
            f"{STEPS * work / sorted(seconds[name])[args.repeats // 2] / rate:.0%}",
            f"{memory[name] / 2**20:,.0f} MiB",
        ]
        for name in forms
    ]
    head = ["a step", "time", "× encoder", f"× {args.methods[0]}", "of the matrix rate", "memory"]
    text = (
        f"{args.encoder}, {len(rows)} texts, {tokens:,} tokens in two views, --amp {args.amp}; "
        f"matrix products reach {rate / 1e12:.2f} TFLOP/s here\n\n" + measure.table(head, lines)
    )
    measure.finish(args, text, {"seconds": seconds, "peak_bytes": memory})


if __name__ == "__main__":
    benchmark()
