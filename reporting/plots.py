"""
The plots of a run (--plots), from its predictions and the model that it kept: the confusion matrix
of the test texts, and, where the model has an encoder, a t-SNE of them.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

import data
from baselines import METHODS
from engine import loader
from engine.tokens import tokenize
from model import Method, SharpReCL
from reporting import export, figures


def last_plot(method: str) -> str:
    """The file that draw() leaves last: where it is, the plots of the run are whole."""
    return "tsne.csv" if METHODS[method].has_encoder else "confusion_matrix.png"


@torch.inference_mode()
def draw(args: argparse.Namespace, corpus: data.Corpus, folder: Path) -> None:
    """
    confusion_matrix.png, and tsne.png of feat; of SharpReCL, the l2-normalised projections, since
    its prototypes are in that space. One process does it alone: nothing here waits for others.
    """
    model, tokenizer, about = export.read_model(folder, args.device)
    labels, names, prototypes = corpus.test_labels, corpus.label_names, None
    if isinstance(model, Method):
        tokens = tokenize(corpus.test_texts, tokenizer, about.max_length, quiet=True)
        logits, feats = loader.predict(
            model,
            model.prepare(tokens),
            len(names),
            amp=args.amp,
            device=args.device,
            batch_size=2 * args.batch_size,
        )
    else:
        logits, feats = model.scores(corpus.test_texts), None
    figure = figures.confusion_matrix(labels, logits.argmax(axis=1), names)
    figures.save_figure(figure, folder / "confusion_matrix.png")
    if isinstance(model, SharpReCL):
        projected = model.project(torch.from_numpy(feats).to(args.device))
        feats, prototypes = (
            F.normalize(x, dim=1).cpu().numpy() for x in (projected, model.prototypes())
        )
    if feats is not None:
        figures.tsne(feats, labels, names, folder, prototypes)
