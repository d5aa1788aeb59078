"""A decoder-only Transformer: tokens in, logits of the next token at every place out.

After Vaswani et al., "Attention is all you need" (2017), with the norms before the layers, as in
GPT-2 and minGPT.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class TokensAndPlaces(nn.Module):
    """The sum of two embeddings: of each token, and of its place in the sequence.

    Args:
        tokens: the number of tokens.
        places: the length of the longest sequence.
        width: the width of the embeddings.
    """

    def __init__(self, tokens: int, places: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.place = nn.Embedding(places, width)
        for embedding in (self.token, self.place):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed a batch, int64 [N, places] → float32 [N, places, width]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        embedded: Tensor = self.token(tokens) + self.place(places)
        return embedded


class Block(nn.Module):
    """Causal attention over the places before, then an MLP of each place; both are added.

    Args:
        width: the width of a place.
        heads: the number of attention heads, a divisor of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute a batch, float32 [N, places, width] → the same."""
        heads = self._heads(x)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.attended(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(x)
        return result

    def attention(self, x: Tensor) -> Tensor:
        """Return how much each place takes from each, float32 [N, heads, places, places]."""
        query, key, _ = self._heads(x)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        shares: Tensor = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
        return shares

    def _heads(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, float32 [3, N, heads, places, width of a head]."""
        rows, places, width = x.shape
        heads: Tensor = self.query_key_value(self.attention_norm(x))
        return heads.view(rows, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)


def decoder(
    tokens: int, places: int, outputs: int, width: int, layers: int, heads: int
) -> nn.Sequential:
    """Return a decoder, int64 [N, places] → logits float32 [N, places, outputs]."""
    return nn.Sequential(
        TokensAndPlaces(tokens, places, width),
        *(Block(width, heads) for _ in range(layers)),
        nn.LayerNorm(width),
        nn.Linear(width, outputs),
    )
