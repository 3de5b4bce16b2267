"""Networks: the paper's parameter counts (property 8), presets, conditioning, stateless dropout."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from mcm.compiled import compiled
from mcm.denoiser import Denoiser, reads_end
from mcm.errors import UserError
from mcm.model import load_weights, start_from
from mcm.networks.dropout import Dropout, keep_mask
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import PRESETS, build, from_json, network_config, parameter_count, to_json
from mcm.networks.uvit import UViTConfig, _pool, _upsample, fourier_features
from mcm.schedules import cosine
from mcm.tensors import write_tensors

IMAGENET_PARAMETERS = {
    "imagenet64_small": 394e6,
    "imagenet64_large": 1.23e9,
    "imagenet128_small": 397e6,
    "imagenet128_large": 1.25e9,
}
NETWORKS = {
    "uvit": network_config("uvit_tiny", num_classes=3, dropout=0.3),
    "mlp": replace(network_config("mlp", image_channels=2, num_classes=3, dropout=0.3), width=16, embedding=16),
}


def inputs(config, batch=4):
    """z, logsnr, labels and dropout seeds of a batch."""
    generator = torch.Generator().manual_seed(0)
    shape = (2,) if isinstance(config, MLPConfig) else (3, config.resolution, config.resolution)
    z = torch.randn(batch, *shape, generator=generator)
    return z, torch.linspace(-20, 20, batch), torch.arange(batch) % 3, torch.arange(batch) * 7919


@pytest.fixture(params=NETWORKS)
def config(request):
    return NETWORKS[request.param]


@pytest.fixture
def network(config):
    """A network away from its zero initialisation, where conditioning and dropout show."""
    torch.manual_seed(0)
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("preset", IMAGENET_PARAMETERS)
def test_property_8_parameter_counts_are_the_papers(preset):
    count = parameter_count(network_config(preset, num_classes=1000))
    assert abs(count / IMAGENET_PARAMETERS[preset] - 1) < 0.02, f"{count:,}"


def test_imagenet_presets_have_the_papers_dropout_and_doubled_channels():
    def rates(preset):
        row = PRESETS[preset]
        return [(stage.kind, stage.channels, stage.blocks, stage.dropout) for stage in (*row.down, row.middle)]

    assert rates("imagenet64_small") == [
        ("resnet", 256, 3, 0), ("transformer", 512, 3, 0), ("transformer", 1024, 16, 0.2),
    ]  # fmt: skip
    assert rates("imagenet64_large") == [
        ("resnet", 512, 3, 0), ("transformer", 1024, 3, 0.1), ("transformer", 2048, 16, 0.1),
    ]  # fmt: skip
    assert rates("imagenet128_small") == [
        ("resnet", 128, 3, 0), ("resnet", 256, 3, 0), ("transformer", 512, 3, 0), ("transformer", 1024, 16, 0.1),
    ]  # fmt: skip
    assert rates("imagenet128_large") == [
        ("resnet", 256, 3, 0), ("resnet", 512, 3, 0.1), ("transformer", 1024, 3, 0.1), ("transformer", 2048, 16, 0.1),
    ]  # fmt: skip


@pytest.mark.parametrize(("preset", "low", "high"), [("uvit_tiny", 2e3, 5e4), ("uvit64", 20e6, 40e6)])
def test_own_presets_have_the_size_they_are_for(preset, low, high):
    assert low < parameter_count(network_config(preset)) < high


def test_counting_allocates_nothing_and_agrees_with_the_built_network(config):
    assert parameter_count(config) == sum(parameter.numel() for parameter in build(config).parameters())


@pytest.mark.parametrize("resolution", [4, 12, 32])
def test_uvit_keeps_the_shape_of_images_at_any_fitting_resolution(resolution):
    network = build(network_config("uvit_tiny", resolution=resolution, image_channels=1))
    z = torch.randn(2, 1, resolution, resolution)
    assert network(z, torch.zeros(2)).shape == z.shape


def test_fresh_network_predicts_zero_v(config):
    z, logsnr, labels, _ = inputs(config)
    assert (build(config)(z, logsnr, labels) == 0).all()


def test_every_parameter_receives_a_gradient(config, network):
    z, logsnr, labels, seeds = inputs(config)
    labels[0] = config.num_classes  # the null class
    network(z, logsnr, labels, seeds).square().sum().backward()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert silent == []


def test_prediction_depends_on_noise_level_and_class_of_its_own_row(config, network):
    z, logsnr, labels, _ = inputs(config)
    before = network(z, logsnr, labels)
    for changed in (network(z, logsnr.roll(1), labels), network(z, logsnr, (labels + 1) % 3)):
        assert ((changed - before).flatten(1).norm(dim=1) > 1e-3).all()
    relabelled = labels.clone()
    relabelled[1] = 2
    assert torch.equal((network(z, logsnr, relabelled) != before).flatten(1).any(dim=1), torch.arange(4) == 1)


def test_no_labels_means_the_null_class(config, network):
    z, logsnr, labels, _ = inputs(config)
    assert torch.equal(network(z, logsnr), network(z, logsnr, torch.full_like(labels, config.num_classes)))


def test_conditioning_tells_noise_levels_apart_over_the_whole_range():
    logsnr = torch.linspace(-20, 20, 401)
    distances = torch.cdist(*[fourier_features(logsnr, 32)] * 2) + 100 * torch.eye(401)
    assert distances.min() > 0.1


def test_dropout_is_off_without_seeds_and_differs_with_them(config, network):
    z, logsnr, labels, seeds = inputs(config)
    assert torch.equal(network(z, logsnr, labels), network(z, logsnr, labels))
    assert torch.equal(network(z, logsnr, labels, seeds), network(z, logsnr, labels, seeds))
    assert not torch.equal(network(z, logsnr, labels, seeds), network(z, logsnr, labels, seeds + 1))
    assert not torch.equal(network(z, logsnr, labels, seeds), network(z, logsnr, labels))


def test_dropout_of_an_image_does_not_depend_on_its_batch(config, network):
    z, logsnr, labels, seeds = inputs(config)
    together = network(z, logsnr, labels, seeds)
    order = torch.tensor([2, 0])
    part = network(z[order], logsnr[order], labels[order], seeds[order])
    torch.testing.assert_close(part, together[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_masks_keep_the_stated_share_of_elements(rate):
    """Over all elements, over every image, and over every element: binomial, within 5 standard deviations."""
    keep = keep_mask(torch.arange(400), layer=3, rate=rate, shape=(20, 50)).double()
    for mean, count in ((keep.mean(), keep.numel()), (keep.mean(dim=(1, 2)), 1000), (keep.mean(dim=0), 400)):
        assert (mean - (1 - rate)).abs().max() < 5 * (rate * (1 - rate) / count) ** 0.5


def test_dropout_masks_of_seeds_layers_and_elements_are_uncorrelated():
    count = 100_000
    seeds = torch.tensor([0, 1, 2, 1 << 16, 1 << 31])
    masks = [keep_mask(seeds, layer, 0.5, (count,)) for layer in (0, 1, 2)]
    shifted = [masks[0].roll(k, dims=1) for k in (1, 64)]
    rows = torch.cat([*masks, *shifted]).double()
    correlation = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / count**0.5


def test_dropout_mask_is_a_function_of_the_seed_alone():
    seeds = torch.tensor([5, 11, 17])
    assert torch.equal(keep_mask(seeds, 0, 0.3, (64,))[1:], keep_mask(seeds[1:], 0, 0.3, (64,)))
    torch.manual_seed(1)
    first = keep_mask(seeds, 0, 0.3, (64,))
    torch.manual_seed(2)
    assert torch.equal(first, keep_mask(seeds, 0, 0.3, (64,)))


def test_dropout_keeps_the_mean():
    x = torch.ones(200, 1000)
    dropped = Dropout(0.2, layer=0)(x, torch.arange(200))
    assert sorted(dropped.unique().tolist()) == [0, 1.25]
    assert abs(dropped.mean().item() - 1) < 5 * (0.25 / x.numel()) ** 0.5


def test_dropout_masks_are_those_of_the_hash_in_plain_integers():
    """A mask decides what a resumed run computes: it may never change."""

    def hash32(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    seeds, layer, rate = [0, 7919, 2**31 + 5, 2**40 + 1, -3], 3, 0.7
    per_image = [hash32((seed ^ (layer * 0x9E3779B9)) % 2**32) for seed in seeds]
    expected = [[hash32(hash32(e) ^ image) >= int(rate * 2**32) for e in range(200)] for image in per_image]
    assert keep_mask(torch.tensor(seeds), layer, rate, (10, 20)).flatten(1).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pool_and_upsample_are_means_of_and_copies_to_2x2_squares(dtype):
    h = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    squares = torch.stack([h[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    torch.testing.assert_close(_pool(h), squares.float().mean(dim=0).to(dtype))
    doubled = _upsample(h)
    assert doubled.is_contiguous()
    assert all(torch.equal(doubled[:, i::2, j::2], h) for i in (0, 1) for j in (0, 1))


@pytest.mark.parametrize("bf16", [False, True])
def test_recomputed_activations_leave_every_bit_of_the_gradients(config, network, bf16):
    z, _, labels, seeds = inputs(config)
    t = cosine()(torch.full((4,), 0.5))
    gradients = []
    for network.recompute in (False, True):
        x_hat = Denoiser(network, bf16=bf16)(z, t, labels, seeds)
        gradients.append(torch.autograd.grad(x_hat.square().sum(), list(network.parameters())))
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_recomputing_activations_lowers_the_peak_of_memory():
    network = build(network_config("uvit_tiny", resolution=32))
    z = torch.randn(16, 3, 32, 32)
    peaks = []
    for network.recompute in (False, True):
        tracker = MemTracker()
        tracker.track_external(network)
        with tracker:
            network(z, torch.zeros(16)).square().sum().backward()
        network.zero_grad()
        peaks.append(tracker.get_tracker_snapshot("peak")[z.device]["Total"])
    assert peaks[1] < 0.75 * peaks[0], peaks


def test_denoiser_predicts_x_from_a_network_of_v(config, network):
    z, _, labels, _ = inputs(config)
    t = cosine()(torch.tensor([0.1, 0.4, 0.7, 1.0]))
    v = network(z, t.clipped_logsnr, labels)
    shape = [-1] + [1] * (z.dim() - 1)
    expected = t.alpha.float().view(shape) * z - t.sigma.float().view(shape) * v
    torch.testing.assert_close(Denoiser(network)(z, t, labels), expected)


def test_denoiser_at_data_returns_its_input(config, network):
    z, _, labels, _ = inputs(config)
    torch.testing.assert_close(Denoiser(network)(z, cosine()(torch.zeros(4)), labels), z, atol=0, rtol=0)


def test_bf16_denoiser_returns_float32_and_keeps_gradients_after_a_call_without_graph(config, network):
    z, _, labels, _ = inputs(config)
    t = cosine()(torch.full((4,), 0.5))
    denoiser = Denoiser(network, bf16=True)
    with torch.no_grad():
        denoiser(z, t, labels)
    x_hat = denoiser(z, t, labels)
    x_hat.square().sum().backward()
    assert x_hat.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_shapes_survive_json(preset):
    config = network_config(preset, num_classes=5, dropout=0.25)
    assert from_json(json.loads(json.dumps(to_json(config))), "config.json") == config


def test_dropout_override_reaches_the_middle_and_every_stage_that_has_a_rate():
    config = network_config("imagenet128_large", dropout=0.3)
    assert isinstance(config, UViTConfig)
    assert [stage.dropout for stage in (*config.down, config.middle)] == [0, 0.3, 0.3, 0.3]
    plain = network_config("uvit_tiny", dropout=0.3)
    assert isinstance(plain, UViTConfig)
    assert [stage.dropout for stage in (*plain.down, plain.middle)] == [0, 0.3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "imagenet64_smal"}, "did you mean 'imagenet64_small'"),
        ({"preset": "qqq"}, "known: .*uvit_cpu32"),
        ({"preset": "uvit_cpu32", "resolution": 30}, "multiple of 4, not 30"),
        ({"preset": "uvit_cpu32", "resolution": 0}, "multiple of 4, not 0"),
        ({"preset": "mlp", "resolution": 32}, "points, not for images"),
        ({"preset": "uvit_tiny", "dropout": 1.0}, "rate"),
    ],
)
def test_unfit_requests_are_user_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        network_config(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "uvitt"}, "did you mean 'uvit'"),
        ({"resolution": "large"}, "'resolution'"),
        ({"resolution": 15}, "multiple"),
        ({"middle": {"kind": "resnext", "channels": 8, "blocks": 1, "dropout": 0.0}}, "did you mean 'resnet'"),
        ({"wdith": 3}, "unknown"),
    ],
)
def test_unfit_json_is_a_user_error_that_says_where(change, message):
    with pytest.raises(UserError, match=f"students/config.json: .*{message}"):
        from_json({**to_json(PRESETS["uvit_tiny"]), **change}, "students/config.json")


# The end of a step


@pytest.fixture
def told(config):
    """The same network with an input for where a step ends, all of it away from its initialisation."""
    torch.manual_seed(0)
    network = build(replace(config, reads_end=True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def test_prediction_depends_on_the_end_of_its_own_row(config, told):
    z, logsnr, labels, _ = inputs(config)
    end = logsnr + 5
    before = told(z, logsnr, labels, None, end)
    assert ((told(z, logsnr, labels, None, end + 5) - before).flatten(1).norm(dim=1) > 1e-3).all()
    end[1] += 5
    changed = (told(z, logsnr, labels, None, end) != before).flatten(1).any(dim=1)
    assert torch.equal(changed, torch.arange(4) == 1)


def test_no_end_means_a_step_that_ends_where_it_begins(config, told):
    z, logsnr, labels, seeds = inputs(config)
    assert torch.equal(told(z, logsnr, labels, seeds), told(z, logsnr, labels, seeds, logsnr))


def test_every_parameter_of_a_network_that_reads_ends_receives_a_gradient(config, told):
    z, logsnr, labels, seeds = inputs(config)
    told(z, logsnr, labels, seeds).square().sum().backward()
    assert [name for name, value in told.named_parameters() if not value.grad.abs().sum() > 0] == []


def test_a_network_that_reads_no_ends_cannot_be_told_one(config, network):
    z, logsnr, labels, _ = inputs(config)
    with pytest.raises(UserError, match="no input for that"):
        network(z, logsnr, labels, None, logsnr)


def test_a_student_that_reads_ends_starts_as_its_teacher_for_any_end(config, network, tmp_path):
    """Bit for bit, with dropout and in evaluation, at data and at noise."""
    z, _, labels, seeds = inputs(config)
    teacher, student = Denoiser(network), Denoiser(build(replace(config, reads_end=True)))
    write_tensors(tmp_path / "ema.safetensors", dict(teacher.named_parameters()))
    start_from(student, tmp_path / "ema.safetensors")
    t = cosine()(torch.tensor([0.1, 0.4, 0.7, 1.0]))
    for drop in (None, seeds):
        expected = teacher(z, t, labels, drop)
        assert torch.equal(student(z, t, labels, drop), expected)
        for end in (0.0, 0.1, 1.0):
            assert torch.equal(student(z, t, labels, drop, cosine()(torch.full((4,), end))), expected)
    student(z, t, labels, None, t).square().sum().backward()
    name = "network.embedding.end.2.weight"
    assert dict(student.named_parameters())[name].grad.abs().sum() > 0  # it learns from the first step on


def test_weights_that_lack_or_have_anything_else_are_user_errors(config, network, told, tmp_path):
    path = tmp_path / "ema.safetensors"
    plain, reads = (Denoiser(build(replace(config, reads_end=end))) for end in (False, True))
    whole = dict(Denoiser(network).named_parameters())
    of_ends = dict(Denoiser(told).named_parameters())

    write_tensors(path, of_ends)  # one that reads ends hands all of it on
    start_from(reads, path)
    assert all(torch.equal(value, of_ends[name]) for name, value in reads.named_parameters())
    with pytest.raises(UserError, match="where its steps end"):
        start_from(plain, path)
    write_tensors(path, whole)
    start_from(plain, path)
    assert all(torch.equal(value, whole[name]) for name, value in plain.named_parameters())
    with pytest.raises(UserError, match=re.escape("embedding.end.")):  # a student from disk is whole, or none
        load_weights(reads, path)
    for lacking in ("network.read.weight", "network.embedding.end.0.bias"):
        write_tensors(path, {name: value for name, value in of_ends.items() if name != lacking})
        with pytest.raises(UserError, match=re.escape(lacking)):
            start_from(reads, path)
    write_tensors(path, {**whole, "network.more": torch.zeros(1)})
    with pytest.raises(UserError, match=re.escape("network.more")):
        start_from(reads, path)


def test_json_of_a_shape_that_reads_no_ends_does_not_name_them(config):
    plain, reads = (to_json(replace(config, reads_end=end)) for end in (False, True))
    assert "reads_end" not in plain
    assert reads == {**plain, "reads_end": True}
    assert list(plain) == [name for name in reads if name != "reads_end"]
    assert from_json(json.loads(json.dumps(reads)), "config.json").reads_end
    with pytest.raises(UserError, match="unknown, missing or oddly typed"):
        from_json({**plain, "reads_end": False}, "config.json")


def test_json_of_a_shape_is_what_it_was_before_networks_read_ends():
    assert json.dumps(to_json(network_config("mlp", image_channels=2))) == (
        '{"network": "mlp", "dimensions": 2, "width": 128, "blocks": 3, "embedding": 128, "num_classes": 0, '
        '"dropout": 0.0}'
    )
    assert list(to_json(PRESETS["uvit_tiny"])) == [
        "network", "resolution", "down", "middle", "image_channels", "patch", "embedding", "head_channels",
        "num_classes",
    ]  # fmt: skip


def test_reading_ends_leaves_the_first_weights_of_the_rest(config):
    """What it adds to a network is drawn after all before it: `time` and `label` of the embedding keep their draws."""
    networks = []
    for end in (False, True):
        torch.manual_seed(3)
        networks.append(build(replace(config, reads_end=end)).embedding)
    for name, value in networks[0].named_parameters():
        assert torch.equal(value, dict(networks[1].named_parameters())[name])


def test_what_reads_ends_is_seen_through_what_wraps_it(config):
    plain, reads = (Denoiser(build(replace(config, reads_end=end))) for end in (False, True))
    wrapper = torch.nn.Module()
    wrapper.module = compiled(reads)
    assert reads_end(reads) and reads_end(compiled(reads)) and reads_end(wrapper)
    assert not reads_end(plain) and not reads_end(compiled(plain)) and not reads_end(plain.forward)
