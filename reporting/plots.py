"""
Draws the figures of a run from its finished folder: the label distribution, and with --plots a
confusion matrix and, if the model has an encoder, a t-SNE of the test texts.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

import data
from engine import loader
from engine.arguments import Arguments
from engine.run_folder import last_plot
from engine.saved_model import read_model
from engine.tokens import tokenize
from model import Method, SharpReCL
from reporting import figures


def draw_all(args: Arguments, corpus: data.Corpus, folder: Path) -> None:
    """Draws the missing figures of a finished run or a check."""
    if args.check_only or not (folder / "label_distribution.png").exists():
        draw_labels(folder)
    if args.plots and not args.check_only and not (folder / last_plot(args.method)).exists():
        draw(args, corpus, folder)


def draw_labels(folder: Path) -> None:
    """Draws label_distribution.png (Fig. 1) from the data report."""
    figures.save_figure(figures.class_sizes(folder), folder / "label_distribution.png")


@torch.inference_mode()
def draw(args: Arguments, corpus: data.Corpus, folder: Path) -> None:
    """
    Draws confusion_matrix.png, and tsne.png of feat or, for SharpReCL, of the l2-normalised
    projections, because its prototypes are in that space. Only one process does this.
    """
    model, tokenizer, about = read_model(folder, args.device)
    labels, names, prototypes = corpus.test_labels, corpus.label_names, None
    if isinstance(model, Method) and about.max_length is not None:
        texts = [about.prefix + text for text in corpus.test_texts]
        tokens = tokenize(texts, tokenizer, about.max_length)
        logits, feats = loader.predict(
            model, model.prepare(tokens), len(names), amp=args.amp, batch_size=2 * args.batch_size
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
