"""Row-sparse training of the item table: the same gradients, and updates of the touched rows alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from seqbench.losses import LOSSES
from seqbench.models import MODELS, load_model
from seqbench.models.base import SequenceModel, TrainingConfig
from seqbench.training.loop import Trainer
from seqbench.training.objectives import OBJECTIVES
from seqbench.training.sparse import ItemTable, LazyAdamW
from tests.trainkit import ITEMS, make_trainer, small_model

NEURAL = [name for name in MODELS if issubclass(load_model(name), SequenceModel)]
SAMPLED = [(name, shared) for name in LOSSES if LOSSES[name].sampled for shared in (False, True)]


def differentiated(trainer: Trainer) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step on a few rows, and the gradients that its optimizers were given, as dense tensors."""
    trainer.model.eval()
    trainer.generator.manual_seed(1)
    gradients: dict[str, Tensor] = {}

    def keep(*_: Any) -> None:
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.to_dense().clone()

    trainer.optimizers[-1].register_step_pre_hook(keep)
    starts, lengths = trainer.objective.rows(trainer.sequences, trainer.protocol, np.random.default_rng(0))
    return float(trainer._step(starts[:3], lengths[:3]).detach()), gradients


def settings(**changes: Any) -> dict[str, Any]:
    return {"loss": "sampled-softmax", "negatives": 3, "clip_norm": 0.05, "weight_decay": 0.0} | changes


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("loss", "shared"), SAMPLED)
def test_the_gradients_are_those_of_the_whole_table(loss: str, shared: bool, objective: str) -> None:
    chosen = settings(loss=loss, shared_negatives=shared, objective=objective)
    one, dense = differentiated(make_trainer("lrurec", **chosen))
    other, sparse = differentiated(make_trainer("lrurec", sparse_items=True, **chosen))
    assert other == pytest.approx(one, rel=1e-6)
    assert sparse.keys() == dense.keys()
    for name, gradient in dense.items():
        torch.testing.assert_close(sparse[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", NEURAL)
def test_every_model_trains_on_the_rows_that_it_touches(name: str) -> None:
    trainer = make_trainer(name, sparse_items=True, **settings())
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    table = trainer.model.item_parameters()[0]
    trainer.generator.manual_seed(1)
    starts, lengths = trainer.objective.rows(trainer.sequences, trainer.protocol, np.random.default_rng(0))
    drawn = trainer.loss.draw(torch.zeros(1, dtype=torch.long), trainer.generator.manual_seed(1))
    assert drawn is not None
    batch = trainer.objective.batch(trainer.sequences, starts[:2], lengths[:2])
    trainer.generator.manual_seed(1)
    trainer._step(starts[:2], lengths[:2])
    assert trainer.model.item_parameters()[0] is table, "the whole table is back"
    assert len(table) == ITEMS + 1
    touched = {*batch.items.flatten().tolist(), *batch.targets.tolist(), *drawn.ids.tolist()} - {0}
    assert len(touched) < ITEMS
    key = next(key for key, parameter in trainer.model.named_parameters() if parameter is table)
    moved = (table != before[key]).any(dim=1).nonzero().flatten().tolist()
    assert set(moved) == touched
    assert {key for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])} > {key}


def test_training_by_rows_falls_and_resumes_bit_for_bit(tmp_path: Any) -> None:
    chosen = {"loss": "sampled-softmax", "negatives": 8, "sparse_items": True, "learning_rate": 1e-2}
    straight = make_trainer("gru4rec", **chosen)
    straight.run()
    assert straight.state.history[-1].loss < straight.state.history[0].loss
    for epochs in (2, 4):
        trainer = make_trainer("gru4rec", checkpoint=tmp_path / "checkpoint", epochs=epochs, **chosen)
        trainer.resume()
        trainer.run()
    assert [entry.loss for entry in trainer.state.history] == [entry.loss for entry in straight.state.history]
    found, expected = trainer.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def sparse(rows: list[int], values: Tensor, size: int) -> Tensor:
    shape = (size, *values.shape[1:])
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True).coalesce()


@pytest.mark.parametrize("shape", [(6, 3), (6,)], ids=["table", "bias"])
def test_lazy_adamw_is_torchs_sparse_adam(shape: tuple[int, ...]) -> None:
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers: list[torch.optim.Optimizer] = [
        LazyAdamW([{"params": [ours]}], lr=0.1),
        torch.optim.SparseAdam([theirs], lr=0.1),
    ]
    for rows in ([0, 2], [2, 5], [1, 2, 3], [0]):
        gradient = sparse(rows, torch.randn(len(rows), *shape[1:]), 6)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient
            optimizer.step()
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert torch.equal(ours[4], start[4])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lazy_adamw_is_adamw_where_every_row_has_a_gradient(decay: float) -> None:
    start = torch.randn(6, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lazy = LazyAdamW([{"params": [ours], "weight_decay": decay}], lr=0.1)
    whole = torch.optim.AdamW([theirs], lr=0.1, weight_decay=decay)
    for _ in range(4):
        gradient = torch.randn(6, 3)
        ours.grad, theirs.grad = sparse(list(range(6)), gradient, 6), gradient
        lazy.step()
        whole.step()
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_what_no_step_touches_does_not_decay() -> None:
    trainer = make_trainer("lrurec", sparse_items=True, **settings(weight_decay=0.5, learning_rate=0.1))
    table = trainer.model.item_weights()
    before = table.detach().clone()
    starts, lengths = trainer.objective.rows(trainer.sequences, trainer.protocol, np.random.default_rng(0))
    trainer._step(starts[:1], lengths[:1])
    same = (table == before).all(dim=1)
    assert 0 < same.sum() < ITEMS


def test_nothing_that_a_step_makes_has_the_size_of_the_catalogue() -> None:
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            given, made = (
                [each for each in pytree.tree_leaves(tree) if isinstance(each, Tensor) and each.layout == torch.strided]
                for tree in (args, out)
            )
            known = {each.data_ptr() for each in given}
            sizes.extend(each.numel() for each in made if each.data_ptr() not in known)  # neither view nor in place
            return out

    sizes: list[int] = []
    trainer = make_trainer("lrurec", sparse_items=True, **settings())
    large = 200_000
    cls = type(trainer.model)
    model = cls(large, 6, trainer.model.config)
    trainer = Trainer(model, trainer.sequences, training=trainer.training, protocol=trainer.protocol)
    starts, lengths = trainer.objective.rows(trainer.sequences, trainer.protocol, np.random.default_rng(0))
    trainer._step(starts, lengths)  # makes the optimizers' state
    with Watch():
        trainer._step(starts, lengths)
    assert 0 < max(sizes) < large


def test_a_loss_over_the_whole_catalogue_has_no_rows() -> None:
    with pytest.raises(ValueError, match="sparse_items needs a loss that looks at a few items"):
        TrainingConfig(sparse_items=True)


def test_a_model_whose_table_is_computed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gru4rec")
    monkeypatch.setattr(model, "item_weights", lambda: model.embedding.weight * 2)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="item table is a parameter, which that of GRU4Rec is not"):
        ItemTable(model)
