"""The distributions that initial weights are drawn from, as the papers and the official code have them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import Model, SequenceModel, TrainingConfig
from seqbench.models.esasrec import ESASRec, LiGRBlock
from seqbench.models.glintru import GLINTRU
from seqbench.models.hstu import HSTU, HSTUBlock
from seqbench.models.lrurec import LRUBlock, LRURecConfig
from seqbench.models.mamba import Mamba
from seqbench.models.recblr import RecBLR, RecBLRConfig
from seqbench.models.sigma import SIGMA
from seqbench.training.optimizer import make_optimizers
from tests.models.forms import FORMS

ITEMS, MAX_LEN = 500, 50
NEURAL = [form for form, (cls, _) in FORMS.items() if issubclass(cls, SequenceModel)]


def make(form: str) -> Model:
    cls, config = FORMS[form]
    torch.manual_seed(0)
    return cls(ITEMS, MAX_LEN, config)


def assert_uniform(values: Tensor, bound: float) -> None:
    """Within the bound, up to the bound, and with the spread of a uniform distribution."""
    assert values.abs().max() <= bound * (1 + 1e-6)
    assert values.abs().max() > 0.97 * bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def assert_xavier_uniform(weight: Tensor) -> None:
    assert_uniform(weight, math.sqrt(6 / sum(weight.shape)))


@pytest.mark.parametrize("form", NEURAL)
def test_layer_norms_start_as_the_identity(form: str) -> None:
    for module in make(form).modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("form", ["recblr", "mamba4rec", "sasrec", "linrec", "sigma"])
def test_maps_and_embeddings_start_normal_with_deviation_0_02_and_no_bias(form: str) -> None:
    drawn = [
        (name, module)
        for name, module in make(form).named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and ".mamba." not in name
    ]
    assert len(drawn) >= 3
    for name, module in drawn:
        weight = module.weight.detach()
        assert weight.std() == pytest.approx(0.02, rel=0.05), name
        assert weight.abs().max() > 0.05, f"{name} is not cut off"
        assert abs(float(weight.mean())) < 0.002, name
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert (module.bias == 0).all(), name


def test_lrurec_draws_all_but_norms_and_decays_from_a_normal_cut_off_at_two_deviations() -> None:
    for name, parameter in make("lrurec").state_dict().items():
        if "norm" in name or "_log" in name:
            continue
        assert parameter.abs().max() <= 0.04, name
        assert parameter.abs().max() > 0.03, name
        assert parameter.std() == pytest.approx(0.02 * 0.8796, rel=0.3 if parameter.dim() == 1 else 0.05), name


def test_lrurec_draws_eigenvalues_evenly_from_a_ring_and_scales_inputs_to_match() -> None:
    torch.manual_seed(0)
    block = LRUBlock(LRURecConfig(hidden_size=1024, r_min=0.5, r_max=0.9))
    modulus = torch.exp(-torch.exp(block.nu_log.detach()))
    phase = torch.exp(block.theta_log.detach())
    assert modulus.min() >= 0.5
    assert modulus.max() <= 0.9
    # Evenly over the area: the square of the radius is uniform.
    assert float((modulus**2).mean()) == pytest.approx((0.5**2 + 0.9**2) / 2, rel=0.02)
    assert float((modulus**2).std()) == pytest.approx((0.9**2 - 0.5**2) / math.sqrt(12), rel=0.03)
    assert_uniform(phase - math.pi, math.pi)
    torch.testing.assert_close(
        torch.exp(block.gamma_log.detach()) ** 2 + modulus**2, torch.ones(2048), rtol=0, atol=1e-5
    )


def test_recblr_spreads_its_decays_from_0_9_to_0_999() -> None:
    model = RecBLR(ITEMS, MAX_LEN, RecBLRConfig())
    block = model.blocks[0]
    decay = block.decay
    assert isinstance(decay, Tensor)
    slowest = torch.exp(-nn.functional.softplus(decay.detach()))
    assert float(slowest[0]) == pytest.approx(0.9, abs=1e-4)
    assert float(slowest[-1]) == pytest.approx(0.999, abs=1e-4)
    torch.testing.assert_close(decay.diff(), (decay[-1:] - decay[:1]).expand(len(decay) - 1) / (len(decay) - 1))


@pytest.mark.parametrize("width", [2, 4])
def test_convolutions_start_uniform_with_a_bound_from_their_width(width: int) -> None:
    torch.manual_seed(0)
    recblr = RecBLR(ITEMS, MAX_LEN, RecBLRConfig(hidden_size=128, d_conv=width)).blocks[0]
    mamba = Mamba(128, d_state=4, d_conv=width, expand=2)
    for block in (recblr, mamba):
        for values in (block.convolution_weight, block.convolution_bias):
            assert isinstance(values, Tensor)
            assert_uniform(values.detach(), 1 / math.sqrt(width))


def test_mamba_starts_with_states_of_different_decay_and_an_open_skip_connection() -> None:
    block = Mamba(160, d_state=6, d_conv=4, expand=2)
    torch.testing.assert_close(block.decay_log.exp(), torch.arange(1.0, 7.0).expand(320, 6))
    assert (block.skip == 1).all()
    assert block.step_projection.in_features == 10  # a sixteenth of the width, rounded up
    assert Mamba(17, d_state=4, d_conv=4, expand=2).step_projection.in_features == 2
    assert_uniform(block.step_projection.weight.detach(), 10**-0.5)
    steps = F.softplus(block.step_projection.bias.detach().double()).log10()  # from 0.001 to 0.1
    assert_uniform(steps + 2, 1.0)


def test_learned_shares_start_as_in_the_official_code() -> None:
    sigma, glintru = make("sigma"), make("glintru")
    assert isinstance(sigma, SIGMA)
    assert isinstance(glintru, GLINTRU)
    torch.testing.assert_close(sigma.blocks[0].shares, torch.tensor([0.1, 0.1, 0.8]))
    torch.testing.assert_close(torch.softmax(glintru.mixing, 0), torch.tensor([0.5, 0.5]))


def test_esasrec_draws_every_matrix_normal_by_its_shape_and_padding_with_it() -> None:
    model = make("esasrec")
    assert isinstance(model, ESASRec)
    matrices = [parameter.detach() for parameter in model.parameters() if parameter.dim() > 1]
    assert len(matrices) == 2 + 2 * 7
    for weight in matrices:
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / sum(weight.shape)), rel=0.05)
        assert weight.abs().max() > 3 * weight.std()  # normal
    table = model.embedding.weight.detach()
    assert float(table[0].std()) == pytest.approx(float(table.std()), rel=0.3)
    for block in model.blocks:
        assert isinstance(block, LiGRBlock)
        assert not block.qkv.bias.any()
        assert not block.attention_out.bias.any()
        assert_uniform(block.attention_gate.bias.detach(), model.embedding.embedding_dim**-0.5)


def test_hstu_draws_matrices_by_their_shape_and_biases_of_attention_normal() -> None:
    model = make("hstu")
    assert isinstance(model, HSTU)
    matrices = [parameter.detach() for parameter in model.parameters() if parameter.dim() > 1]
    assert len(matrices) == 2 + 2 * 2
    for weight in matrices:
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / sum(weight.shape)), rel=0.06)
    for block in model.blocks:
        assert isinstance(block, HSTUBlock)
        assert isinstance(block.time_bias, nn.Parameter)
        both = torch.cat([block.position_bias.detach(), block.time_bias.detach()])
        assert float(both.std()) == pytest.approx(0.02, rel=0.2)
    outer = torch.cat([bias.detach() for name, bias in model.named_parameters() if name.endswith("out.bias")])
    assert_uniform(outer, model.embedding.embedding_dim**-0.5)


def test_hstu_scores_with_the_weights_that_it_has() -> None:
    model = make("hstu-timeless").eval()
    assert isinstance(model, SequenceModel)
    items, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    with torch.no_grad():
        before = model.score(items, lengths)
        model.embedding.weight[5] = 2 * model.embedding.weight[6]  # type: ignore[union-attr,operator]
        after = model.score(items, lengths)
    torch.testing.assert_close(after[0, 5], before[0, 6])
    torch.testing.assert_close(after, model.score(items, lengths))
    optimizers = make_optimizers(model, TrainingConfig(learning_rate=0.1))
    model.train().score(items, lengths).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        trained = model.eval().score(items, lengths)
    assert not torch.allclose(trained, after)
    torch.testing.assert_close(trained, model.score(items, lengths))


@pytest.mark.parametrize("form", ["gru4rec", "glintru"])
def test_recurrent_models_start_with_xavier_initialisation(form: str) -> None:
    model = make(form)
    embedding, gru = model.embedding, model.gru
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(gru, nn.GRU)
    assert float(embedding.weight.detach().std()) == pytest.approx(math.sqrt(2 / sum(embedding.weight.shape)), rel=0.05)
    assert embedding.weight.abs().max() > 3 * embedding.weight.std()  # normal
    assert_xavier_uniform(gru.weight_ih_l0.detach())
    assert_xavier_uniform(gru.weight_hh_l0.detach())


def test_each_part_of_glintrus_joined_maps_is_drawn_by_its_own_shape() -> None:
    model = make("glintru")
    assert isinstance(model, GLINTRU)
    for joined in (model.filter_in, model.attention.key_value):
        for part in joined.weight.detach().chunk(2):
            assert_xavier_uniform(part)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert (module.bias == 0).all()
