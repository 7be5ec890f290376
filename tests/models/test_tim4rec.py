"""What TiM4Rec makes of the times behind the last item."""

import torch

from seqbench.models.tim4rec import TiM4Rec, TiM4RecConfig
from seqbench.models.times import Times


def test_times_at_padding_mean_nothing_unless_the_official_ones_are_asked_for() -> None:
    items, lengths = torch.tensor([[3, 1, 2, 0, 0]]), torch.tensor([3])
    events = torch.tensor([[100, 400, 90_000, 0, 0]])
    for quirks in (False, True):
        torch.manual_seed(0)
        model = TiM4Rec(9, 6, TiM4RecConfig(hidden_size=8, dropout=0.0, official_quirks=quirks)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        scores = model.score(items, lengths, Times(events, events))
        behind, later = events.clone(), events.clone()
        behind[:, 3:] = 10**6
        later[:, :3] += 10**6  # seen from the padding, whose time is 0
        assert torch.equal(model.score(items, lengths, Times(behind, behind)), scores)
        assert torch.equal(model.score(items, lengths, Times(later, later)), scores) != quirks
