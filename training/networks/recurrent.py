"""A recurrent network on sequences of unequal lengths.

Rows are filled up with zeros to one length. Packed sequences of torch cannot be exported, so the
network computes all places, and reads no state after the end of a row: the states of an LSTM do not
depend on later places.
"""

from torch import Tensor, nn


class NextToken(nn.Module):
    """An LSTM over the tokens of a row, and a linear layer from its state to the next token.

    Args:
        tokens: the number of tokens, with 0, that of padding.
        embedding: the numbers for each token.
        units: the units of the LSTM.
        outputs: the number of classes of the next token.
        dropout: the share of the LSTM's inputs and states that is dropped in a step.
    """

    def __init__(
        self, tokens: int, embedding: int, units: int, outputs: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding, padding_idx=0)
        self.lstm = nn.LSTM(embedding, units, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(units, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits after each row, [N, outputs]; in training, after each of its places.

        Args:
            tokens: int64 [N, places], with one place or more.

        Returns:
            float32 [N, outputs]; in training [N, places, outputs].
        """
        states = self.lstm(self.dropout(self.embedding(tokens)))[0]
        if not self.training:
            states = last(states, (tokens != 0).sum(dim=1))
        logits: Tensor = self.output(self.dropout(states))
        return logits


def last(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the last state of each row, [N, units].

    Args:
        states: [N, places, units].
        lengths: int64 [N]; 0 as 1.
    """
    places = (lengths.clamp(min=1) - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, places).squeeze(1)
