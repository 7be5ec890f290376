"""Row-sparse training of the item table: a step computes and updates only the rows that it touches.

With a sampled loss, a batch touches the items in it, their targets and the negatives: a few thousand rows of a table
that may have millions. For the time of a step the model holds those rows as if they were its whole table, and the ids
are renumbered to fit, in their order. So nothing of a step grows with the catalogue, in no model and in no loss, but
for the draw of the negatives.

Shapes: V items plus padding, R rows that a step touches, D width.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seqbench.losses import Negatives
from seqbench.models.base import SequenceModel
from seqbench.training.objectives import Batch


class ItemTable:
    """The item weights of a model, and its item bias if it has one.

    Raises:
        ValueError: they are no parameters of the model, but computed from some.
    """

    def __init__(self, model: SequenceModel) -> None:
        self.parameters: list[nn.Parameter] = []
        self.places: list[tuple[nn.Module, str, nn.Parameter]] = []
        for table in model.item_parameters():
            if not isinstance(table, nn.Parameter):
                raise ValueError(
                    f"sparse_items needs a model whose item table is a parameter, which that of {type(model).__name__} "
                    "is not"
                )
            self.parameters.append(table)
            for module in model.modules():
                names = [name for name, parameter in module.named_parameters(recurse=False) if parameter is table]
                self.places += [(module, name, table) for name in names]

    @contextmanager
    def touched(self, batch: Batch, negatives: Negatives | None) -> Iterator[tuple[Batch, Negatives | None]]:
        """Let the model hold only the rows of a step; yield its batch and negatives with the ids of those rows.

        At the end, the gradient that the rows have is given to the whole table as a sparse one.
        """
        drawn = batch.targets[:0] if negatives is None else negatives.ids
        ids = torch.cat([batch.targets.new_zeros(1), batch.items.flatten(), batch.targets, drawn.flatten()])
        rows, numbers = ids.unique(return_inverse=True)  # in order, so that padding stays 0
        _, items, targets, others = numbers.split([1, batch.items.numel(), len(batch.targets), drawn.numel()])
        small = {table: nn.Parameter(table.detach().index_select(0, rows)) for table in self.parameters}
        try:
            for module, name, table in self.places:
                setattr(module, name, small[table])
            yield (
                batch._replace(items=items.view_as(batch.items), targets=targets),
                None if negatives is None else negatives._replace(ids=others.view_as(negatives.ids)),
            )
        finally:
            for module, name, table in self.places:
                setattr(module, name, table)
        for table, part in small.items():
            if part.grad is not None:
                table.grad = torch.sparse_coo_tensor(
                    rows.unsqueeze(0), part.grad, table.shape, is_coalesced=True, check_invariants=False
                )


class LazyAdamW(torch.optim.Optimizer):
    """AdamW on the rows that a sparse gradient has; all others, and their moments, stay as they are.

    What torch.optim.SparseAdam computes, with decoupled weight decay (of the same rows) and a state that is made of
    tensors. Where every row has a gradient in every step it is AdamW.

    Args:
        groups: as torch.optim.AdamW takes them, with a `weight_decay` each.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
                    self._update(parameter, parameter.grad, **options)

    def _update(
        self,
        parameter: Tensor,
        sparse: Tensor,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count = int(state["step"])
        rows, gradient = sparse.indices()[0], sparse.values()
        beta1, beta2 = betas
        first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        scale = second.div_(1 - beta2**count).sqrt_().add_(eps)
        values = parameter.index_select(0, rows).mul_(1 - lr * weight_decay)
        parameter.index_copy_(0, rows, values.addcdiv_(first, scale, value=-lr / (1 - beta1**count)))
