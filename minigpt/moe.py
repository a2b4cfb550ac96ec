"""Mixture of experts: many MLPs in one layer, of which each token uses the few that suit it.

A model gets more parameters without more work for each token. Which expert a token goes to is
learned, and a loss of its own keeps the router from sending all tokens to the same ones. Knows
nothing of configs or of the model that it is part of.

Shapes: B batch, T time, N = B * T tokens, C n_embd, E experts, K experts of one token, M tokens of
one expert.

Sources: Shazeer et al. 2017, "Outrageously Large Neural Networks"; Fedus et al. 2021, "Switch
Transformers", section 2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Return 1 where all experts are used alike, and up to E where one gets all there is.

    probabilities (N, E): what the router gives each expert; chosen (N, K): the experts that each
    token uses. Counts have no gradient: what the loss pushes down are the probabilities of experts
    that are used too much. Source: Fedus et al. 2021, equations 4 to 6.

    >>> balance_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0], [0]])).item()
    2.0
    """
    E = probabilities.size(-1)
    loads = F.one_hot(chosen, E).to(probabilities.dtype).mean(dim=(0, 1))  # (E), sums to 1
    return E * (loads * probabilities.mean(dim=0)).sum()


class MoE(nn.Module):
    """Transform each position by `n_active` of `n_expert` SwiGLU MLPs, which a router chooses.

    After a forward pass in training, `auxiliary_loss` is `balance` times `balance_loss`; a model
    adds it to its own.
    """

    auxiliary_loss: Tensor | float = 0.0

    def __init__(self, n_embd: int, n_hidden: int, n_expert: int, n_active: int, balance: float):
        super().__init__()
        self.n_active, self.balance = n_active, balance
        self.router = nn.Linear(n_embd, n_expert, bias=False)
        self.gate = nn.Parameter(torch.empty(n_expert, n_hidden, n_embd))
        self.up = nn.Parameter(torch.empty(n_expert, n_hidden, n_embd))
        self.down = nn.Parameter(torch.empty(n_expert, n_embd, n_hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C): the sum of the chosen experts, weighed by the router."""
        tokens = x.flatten(0, -2)  # (N, C)
        probabilities = self.router(tokens).float().softmax(dim=-1)  # (N, E)
        shares, chosen = probabilities.topk(self.n_active)  # (N, K) both
        mixed = torch.zeros_like(tokens)
        for expert in range(len(self.gate)):  # also one that no token chose: it has a gradient, 0
            rows, place = (chosen == expert).nonzero(as_tuple=True)  # (M) both
            y = self.transform(tokens[rows], expert) * shares[rows, place, None]  # (M, C)
            mixed = mixed.index_add(0, rows, y.to(mixed.dtype))
        if self.training:
            self.auxiliary_loss = self.balance * balance_loss(probabilities, chosen)
        return mixed.view_as(x)

    def transform(self, tokens: Tensor, expert: int) -> Tensor:
        """Map (M, C) to (M, C) by one expert."""
        hidden = F.silu(F.linear(tokens, self.gate[expert])) * F.linear(tokens, self.up[expert])
        return F.linear(hidden, self.down[expert])

    def __getstate__(self) -> dict:
        """Copy or pickle all but the last batch's loss: it hangs on that batch's graph."""
        return self.__dict__ | {"auxiliary_loss": 0.0}
