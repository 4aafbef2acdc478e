"""
The network of SharpReCL: a text encoder, a linear classifier whose weights become the class
prototypes, and two projection heads into the space of contrastive learning (Eqs. 5 and 7).

    from transformers import AutoModel
    encoder = TextEncoder(AutoModel.from_pretrained("bert-base-uncased"), "cls")
    network = SharpReCL(encoder, num_classes=6)

h is the width of the encoder, C the number of classes, D the size of a projection. To use this file
elsewhere, copy it with data.py. engine/encoders.py loads an encoder by its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data import Tokens

POOLINGS = {  # values of --pooling: what feat is
    "cls": "its first token's state",
    "mean": "the mean of its tokens' states",
    "last": "its last token's state",
}

# The model families whose attention accepts a mask over pairs of tokens, unchanged.
TAKES_PAIR_MASKS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")


class TextEncoder(nn.Module):
    """
    PLM(x): token ids (rows, length) -> feat (rows, h), Section 3.2. The backbone is any encoder or
    decoder of Hugging Face that returns a last_hidden_state; pooling is one of POOLINGS.
    """

    frozen_layers = 0  # engine/frozen.py has a subclass that freezes the lowest layers
    frozen_weights: frozenset[str] = frozenset()  # names of the backbone's frozen parameters

    def __init__(self, backbone: PreTrainedModel, pooling: str):
        super().__init__()
        self.backbone, self.pooling = backbone, pooling

    def embed(self, ids: Tensor) -> Tensor:
        """The word embeddings of token ids, (..., h)."""
        return self.backbone.get_input_embeddings()(ids)

    def forward(
        self, input_ids: Tensor | None, attention_mask: Tensor, words: Tensor | None = None
    ) -> Tensor:
        """Encodes input_ids or, if given, their embeddings words = embed(input_ids)."""
        return self.pool(self.hidden(input_ids, attention_mask, words), attention_mask)

    def hidden(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        words: Tensor | None = None,
        **options: Tensor,
    ) -> Tensor:
        """The states of the last layer, (rows, length, h)."""
        given = {"input_ids": input_ids} if words is None else {"inputs_embeds": words}
        return last_states(self.backbone, attention_mask, **given, **options)

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector per text, (rows, h), from the states (rows, length, h)."""
        if self.pooling == "cls":
            return hidden[:, 0]  # (rows, h)
        if self.pooling == "last":  # the padding may stand on either side
            places = torch.arange(hidden.shape[1], device=hidden.device)
            last = (attention_mask * places).argmax(dim=1)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (rows, length, 1)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # (rows, h)


def last_states(backbone: PreTrainedModel, attention_mask: Tensor, **inputs) -> Tensor:
    """The states of a backbone's last layer, (rows, length, h)."""
    config, mask = backbone.config, attention_mask.long()  # XLNet subtracts the mask from 1
    if config.model_type in TAKES_PAIR_MASKS and config._attn_implementation == "sdpa":
        # transformers reads the values of a 2-D mask, which forces a GPU sync
        mask = attention_mask.bool()[:, None, None].expand(-1, 1, attention_mask.shape[1], -1)
    return backbone(attention_mask=mask, **inputs).last_hidden_state


def first_position(backbone: nn.Module) -> int:
    """Index of the first token's position embedding: in RoBERTa, the one after the padding's."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def projection_head(h: int, proj_dim: int, batch_norm: bool) -> nn.Sequential:
    """An MLP with one hidden layer and ReLU (Section 4); batch_norm as in the authors' code."""
    norm = [nn.BatchNorm1d(h)] if batch_norm else []
    return nn.Sequential(nn.Linear(h, h), *norm, nn.ReLU(), nn.Linear(h, proj_dim))


class Method(nn.Module, ABC):
    """
    The interface that main.py trains: SharpReCL below, the other methods in baselines/.

    views              of a text that a step encodes: "original", "augmented", "augmented again"
    trains             whether gradient descent trains it
    sees_features      whether observe() gets the training features before and after each epoch
    extra_positions    position embeddings that it needs beyond those of the text's tokens
    compensated        whether its logits assume a uniform class prior, not the training shares
    phi                the classifier if it is linear on feat, else None
    losses             (feat, labels, epoch) -> baselines.base.Losses; SharpReCL uses objective() of
                       main.py instead
    training_only      name prefixes of the parts that prediction does not need
    """

    views: tuple[str, ...] = ("original", "augmented")
    trains = True
    sees_features = False
    extra_positions = 0
    compensated = False
    phi: nn.Linear | None
    losses: Callable
    training_only: tuple[str, ...] = ()

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder

    def encode(self, forward, texts: Tokens) -> Tensor:
        """
        Returns feat of a batch's texts, view after view. forward(texts) uses the method's own
        encoder, forward(texts, encoder) another one.
        """
        return forward(texts)

    @abstractmethod
    def classify(self, feat: Tensor) -> Tensor:
        """Class logits, (rows, C)."""

    def prepare(self, tokens: Tokens) -> Tokens:
        """Converts the texts into the input of this method's encoder."""
        return tokens

    def epoch_rows(self, epoch: int, num_texts: int) -> np.ndarray:
        """The rows of the training texts that this epoch uses."""
        return np.arange(num_texts)

    def observe(self, feat: Tensor, labels: Tensor) -> None:
        """Receives feat (N, h), in eval mode, and labels (N,) of the training texts."""


class SharpReCL(Method):
    """
    The encoder, the classifier phi, and the heads proj_f (texts) and proj_h (prototypes).

    mutual_guidance    False is Table 4's "w/o MI": the prototypes are free parameters, so only the
                       encoder links the two branches. Like the classifier's weights they start with
                       a standard deviation of 0.02: only their direction matters, and at a larger
                       scale AdamW's steps would hardly rotate them.
    compensated        whether training uses delta of Eq. (6)
    """

    phi: nn.Linear

    def __init__(
        self,
        encoder: TextEncoder,
        num_classes: int,
        *,
        proj_dim: int = 128,
        proj_bn: bool = False,
        mutual_guidance: bool = True,
        compensated: bool = True,
    ):
        super().__init__(encoder)
        self.compensated = compensated
        h = encoder.backbone.config.hidden_size
        self.phi = nn.Linear(h, num_classes, bias=False)
        self.proj_f = projection_head(h, proj_dim, proj_bn)
        if mutual_guidance:
            self.proj_h = projection_head(h, proj_dim, proj_bn)
        else:
            self.free_prototypes = nn.Parameter(0.02 * torch.randn(num_classes, proj_dim))

    def classify(self, feat: Tensor) -> Tensor:
        """Class logits w^T feat, (rows, C)."""
        return self.phi(feat)  # Eq. (5), left

    def prototypes(self) -> Tensor:
        """One prototype per class, (C, D), not normalised; its gradient reaches the classifier."""
        if hasattr(self, "free_prototypes"):
            return self.free_prototypes
        return self.proj_h(self.phi.weight)  # Eq. (5), right

    def project(self, feat: Tensor) -> Tensor:
        """The texts in the space of the prototypes, (rows, D), not normalised."""
        return self.proj_f(feat)  # Eq. (7)
