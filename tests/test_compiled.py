"""Compiled modules: same numbers, same names, shared parameters, and eager where no compiler works."""

import copy

import pytest
import torch

from mcm.compiled import compiled
from mcm.denoiser import Denoiser
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build
from mcm.schedules import cosine


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    denoiser = Denoiser(build(MLPConfig(2, width=8, blocks=1, embedding=8, num_classes=3)))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser


def inputs(batch=4):
    generator = torch.Generator().manual_seed(batch)
    z = torch.randn(batch, 2, generator=generator)
    return z, cosine()(torch.linspace(0.1, 0.9, batch, dtype=torch.float64)), torch.arange(batch) % 3


def test_names_and_parameters_are_the_modules_own(denoiser):
    fast = compiled(denoiser)
    assert list(fast.state_dict()) == list(denoiser.state_dict())
    assert all(a is b for a, b in zip(fast.parameters(), denoiser.parameters(), strict=True))
    fast.double()
    assert all(parameter.dtype == torch.float64 for parameter in denoiser.parameters())
    fast.eval()
    assert not denoiser.training and not denoiser.network.training


def test_a_copy_is_of_itself_alone(denoiser):
    fast = compiled(denoiser)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(a is b for a, b in zip(other.module.parameters(), other.parameters(), strict=True))
    assert any(parameter.abs().sum() > 0 for parameter in denoiser.parameters())


@pytest.mark.slow
def test_compiled_is_eager_within_rounding_with_and_without_graph_and_for_several_batches(denoiser):
    fast = compiled(denoiser)
    for batch in (4, 3, 4):
        arguments = inputs(batch)
        expected = denoiser(*arguments)
        with torch.inference_mode():
            torch.testing.assert_close(fast(*arguments), expected.detach(), atol=1e-5, rtol=1e-5)
        x_hat = fast(*arguments)
        torch.testing.assert_close(x_hat, expected, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(x.square().sum(), list(denoiser.parameters())) for x in (x_hat, expected)]
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_shapes_that_stay_are_compiled_once(denoiser):
    from torch._dynamo.utils import counters

    fast = compiled(denoiser)
    fast(*inputs())
    before = counters["stats"]["unique_graphs"]
    for iteration in range(5):
        z, t, labels = inputs()
        fast(z + iteration, cosine()(t.alpha * (iteration + 1) / 6), labels)
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.slow
def test_without_a_compiler_one_line_is_said_and_calls_are_eager(denoiser, monkeypatch, capsys):
    from torch._inductor.utils import fresh_cache

    fast = compiled(denoiser)
    arguments = inputs()
    torch._dynamo.reset()
    with fresh_cache(), monkeypatch.context() as patch:
        patch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
        first = fast(*arguments)
    assert torch.equal(first, denoiser(*arguments))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "going on without" in said[0]
    assert torch.equal(fast(*arguments), first)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_an_error_of_the_module_itself_is_raised_as_it_is(denoiser, capsys):
    z, t, labels = inputs()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        compiled(denoiser)(z[:, :1], t, labels)
    assert capsys.readouterr().err == ""
