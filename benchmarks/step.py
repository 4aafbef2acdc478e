"""
A training step of main.py's own loop: SharpReCL beside SCLCE (both with two views) and beside the
encoder alone, forward and backward, on the same tokens; and SharpReCL in micro batches.

    python benchmarks/step.py
    python benchmarks/step.py --encoder bert-base --device cuda --amp bf16
    python benchmarks/step.py --methods la bcl          # a step of these, beside the first
"""

from measure import (
    Run,
    finish,
    flops,
    interleaved,
    machine_rate,
    parse,
    peak_memory,
    ratios,
    run_of,
    spread,
    table,
)

from engine.optimizer import autocast
from main import observe

STEPS = 4  # of a repeat: what the loop does once an epoch weighs as in a short epoch


def loop(run: Run, rows):
    """train_epoch on the same batch, so many times."""

    def steps(number: int = STEPS):
        run.loader.epoch_batches = lambda epoch: [rows] * number  # shadows the method
        run.epoch()

    return steps


def encoder_alone(run: Run, rows):
    def passes(number: int = STEPS):
        run.model.train()
        for _ in range(number):
            texts, _ = run.loader.batch(rows)
            with autocast(run.loader.device, run.args.amp):
                feat = run.model.encode(run.loader.forward, texts)
            feat.float().sum().backward()
            run.optimizer.zero_grad()

    return passes


def compare_methods(args) -> None:
    runs = {method: run_of(args, "--method", method) for method in args.methods}
    for run in runs.values():  # SPCL takes its prototypes from these two
        observe(run.model, run.loader)
        run.loader.epoch_batches(1)
    first, *_ = runs
    rows = runs[first].loader.epoch_batches(1)[0]
    forms = {method: loop(run, rows) for method, run in runs.items()}
    seconds = interleaved(forms, args.repeats, args.device, args.clock)
    lines = [
        [
            method,
            spread([1e3 * s / STEPS for s in seconds[method]], 0, " ms"),
            spread(ratios(seconds, method, first), 2),
        ]
        for method in runs
    ]
    finish(
        args,
        f"{args.encoder}, {len(rows)} texts a step, --amp {args.amp}\n\n"
        + table(["a step", "time", f"× {first}"], lines),
        {"seconds": seconds},
    )


def benchmark() -> None:
    args = parse(
        __doc__,
        (
            "--encoder",
            {"default": "minilm", "help": "or bert-base: its shape, with random weights"},
        ),
        ("--dataset", {"default": "wordnet"}),
        ("--data_dir", {"default": "data"}),
        (
            "--per_class",
            {"type": int, "default": 40, "help": "texts of a class at the most; 1,038 of WordNet"},
        ),
        ("--batch_size", {"type": int, "default": 128}),
        ("--micro_batch", {"type": int, "default": 16}),
        ("--amp", {"default": "off"}),
        ("--methods", {"nargs": "+", "default": [], "help": "their steps, in place of the above"}),
    )
    if args.methods:
        return compare_methods(args)
    ours = run_of(args, "--method", "sharprecl")
    sclce = run_of(args, "--method", "sclce", views=ours.model.views)
    rows = ours.loader.epoch_batches(1)[0]
    forms = {
        "encoder alone": encoder_alone(ours, rows),
        "SCLCE": loop(sclce, rows),
        "SharpReCL": loop(ours, rows),
        f"SharpReCL, --micro_batch {args.micro_batch}": loop(
            run_of(args, "--micro_batch", str(args.micro_batch)), rows
        ),
    }
    seconds = interleaved(forms, args.repeats, args.device, args.clock)
    memory = {name: peak_memory(lambda: form(1), args.device) for name, form in forms.items()}

    tokens = sum(int(view.lengths[rows].sum()) for view in ours.loader.views)
    work, rate = flops(ours, rows), machine_rate(args.device, args.amp)
    lines = [
        [
            name,
            spread([1e3 * s / STEPS for s in seconds[name]], 0, " ms"),
            spread(ratios(seconds, name, "encoder alone"), 3),
            spread(ratios(seconds, name, "SCLCE"), 3),
            spread([STEPS * tokens / s for s in seconds[name]], 0),
            f"{STEPS * work / sorted(seconds[name])[args.repeats // 2] / rate:.0%}",
            f"{memory[name] / 2**20:,.0f} MiB",
        ]
        for name in forms
    ]
    finish(
        args,
        f"{args.encoder}, {len(rows)} texts in two views, {tokens:,} tokens, --amp "
        f"{args.amp}; matrix products reach {rate / 1e12:.2f} TFLOP/s here\n\n"
        + table(
            [
                "a step",
                "time",
                "× encoder",
                "× SCLCE",
                "tokens/s",
                "of the matrix rate",
                "peak memory",
            ],
            lines,
        ),
        {"seconds": seconds, "peak_bytes": memory},
    )


if __name__ == "__main__":
    benchmark()
