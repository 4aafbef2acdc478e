"""
Train and evaluate SharpReCL (Li et al., WWW 2026) or another method, and save the run in a folder.

    python main.py --dataset wordnet --encoder minilm --ir 20 --max_per_class 300 --epochs 3
    python main.py --dataset biomedical --ir 20 --tau 0.5              # one cell of Table 2
    python main.py --dataset biomedical --ir 20 --method bcl           # and one of its rivals

The same command resumes a run that was stopped, and only shows one that is finished. The comments
"line 1" to "line 15" refer to the paper's Algorithm 1.
"""

from engine import environment, signals

if __name__ == "__main__":  # before the libraries, which take seconds to load
    signals.end_at_once()
    environment.check()

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

import data
import losses
from baselines import METHODS
from engine import distributed
from engine.arguments import Arguments, parse_args
from engine.corpus import load_corpus, prepared, tokenize, views_of
from engine.diagnostics import EpochLog
from engine.encoders import quiet_transformers
from engine.files import one_line_errors
from engine.loader import Loader, to_device
from engine.network import Trained, new_model, spreads
from engine.optimizer import autocast, new_optimizer, new_scaler, set_learning_rate
from engine.run_folder import Epoch, RunFolder
from model import Method, SharpReCL


def objective(
    model: SharpReCL,
    feat: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    ratio: float,
    args: Arguments,
) -> losses.Step:
    """
    Computes Algorithm 1, lines 4 to 13, in float32; losses.sharprecl() computes lines 6 to 13.

    feat    (2B, h)  of both views
    labels  (2B,)    of both views
    ratio            share of mixed samples (D_syn) among the built samples at this step
    """
    # fmt: off
    logits = model.classify(feat.detach() if args.no_cls else feat)     # line 4: Eq. (5)
    prototypes = model.prototypes()                                     # line 4: Eq. (5)
    z = model.project(feat)                                             # line 5: Eq. (7)
    return losses.sharprecl(
        logits, labels, class_counts, z, prototypes,
        ratio, n_pos=args.n_pos, n_neg=args.n_neg,                      # lines 6, 7: Eq. (8)
        k=args.k,                                                       # line 8: Eq. (9)
        lam=args.lam,                                                   # line 9: Eq. (10)
        compensated=not args.no_delta_cls,                              # line 11: Eq. (6)
        temperature=args.tau,                                           # line 12: Eq. (11)
        scheme="none" if args.no_delta_cl else args.cl_weight,          # line 12
        reduction=args.cl_reduction, over_positives=args.positives,     # line 12
        mu=args.mu)                                                     # line 13: Eq. (12)
    # fmt: on


def train_epoch(
    model: Method,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    epoch: int,
    args: Arguments,
) -> dict:
    """
    Runs one epoch of Algorithm 1; returns its mean losses, its speed and the diagnostics. For any
    other --method, that method's losses() replaces lines 4 to 13.
    """
    distributed.set_seed(args.seed, epoch)  # so a resumed run draws the same numbers
    model.train()  # from_pretrained leaves the encoder in eval mode
    batches = loader.epoch_batches(epoch)
    total_steps = args.epochs * len(batches)
    log = EpochLog(
        model,
        len(loader.class_counts),
        epoch,
        num_epochs=args.epochs,
        mu=args.mu,
        device=loader.device,
    )

    for position, rows in enumerate(log.over(batches), start=1):  # line 2
        t = (epoch - 1) * len(batches) + position
        ratio = losses.hard_ratio(
            t, total_steps, start=args.hard_ratio_start, end=args.hard_ratio_end
        )
        lr = set_learning_rate(
            optimizer, t, total_steps, warmup=args.warmup, schedule=args.schedule
        )
        texts, labels = loader.batch(rows)
        with autocast(loader.device, args.amp), distributed.own_draws(loader.device, args.seed, t):
            feat = model.encode(loader.forward, texts)  # line 3
        feat = distributed.gather(feat.float(), len(rows), len(model.views))
        with log.watching(feat):
            if isinstance(model, SharpReCL):
                step = objective(model, feat, labels, loader.class_counts, ratio, args)
            else:
                step = model.losses(feat, labels, epoch)
        log.add(step, feat, labels, len(rows), lr)

        optimizer.zero_grad()
        scaler.scale(step.loss).backward()  # line 14
        distributed.combine_gradients(model.encoder, model)
        scaler.step(optimizer)  # line 14
        scaler.update()
    return log.record()  # line 15


def evaluate(loader: Loader, texts: data.Tokens | None) -> np.ndarray | None:
    """Returns the class logits (n, C) of n texts, without compensation; None without texts."""
    return None if texts is None else loader.predict(texts)[0]


def observe(model: Method, loader: Loader) -> None:
    """Gives a method with sees_features the current features of the training texts."""
    if model.sees_features:
        _, feats = loader.predict(loader.views[0])
        model.observe(*(to_device(x, loader.device) for x in (feats, loader.labels)))


def train(args: Arguments, corpus: data.Corpus, folder: RunFolder) -> Iterator[Epoch]:
    """Runs Algorithm 1, from the start or the last complete epoch; yields one epoch at a time."""
    model = new_model(args, corpus)  # line 1
    encoder = nn.DataParallel(model.encoder) if spreads(args) else model.encoder
    optimizer = new_optimizer(
        model, lr=args.lr, head_lr=args.head_lr, weight_decay=args.weight_decay
    )
    scaler = new_scaler(args.device, args.amp)

    test, val = (
        prepared(args, tokenize(args, texts), model) if texts else None
        for texts in (corpus.test_texts, corpus.val_texts)
    )
    loader = Loader(
        model,
        encoder,
        views_of(args, corpus, model),
        corpus.train_labels,
        len(corpus.label_names),
        batch_size=args.batch_size,
        micro_batch=args.micro_batch,
        amp=args.amp,
        device=args.device,
        seed=args.seed,
    )
    epochs = args.epochs if model.trains else 1
    done = folder.begin(model, epochs, weights=Trained(model), optimizer=optimizer, scaler=scaler)
    if done == 0:
        observe(model, loader)
        print(loader.summary(), flush=True)
    for epoch in range(done + 1, epochs + 1):
        record = {"epoch": epoch}
        if model.trains:
            record = train_epoch(model, loader, optimizer, scaler, epoch, args)
            observe(model, loader)
        is_evaluated = epoch % args.eval_every == 0 or epoch == epochs
        of_test, of_val = (
            evaluate(loader, texts if is_evaluated else None) for texts in (test, val)
        )
        yield record, of_test, of_val


def run(args: Arguments) -> None:
    """Checks the texts and trains, unless the run is finished; then draws and prints the result."""
    corpus = load_corpus(args)
    with RunFolder(args, corpus) as folder:
        was_finished = folder.is_finished and not args.overwrite and not args.check_only
        if not was_finished:
            folder.check()
        if not was_finished and not args.check_only:
            fit = METHODS[args.method].fit or train
            folder.keep(fit(args, corpus, folder))
        if distributed.is_main():
            from reporting import plots  # it reads the finished folder

            plots.draw_all(args, corpus, folder.path)
        if not args.check_only:
            folder.end(was_finished)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    quiet_transformers()
    args = parse_args(argv, __doc__)
    with distributed.joined(args.device) as args.device, distributed.quiet_but_main():
        run(args)


if __name__ == "__main__":
    signals.run(main)
