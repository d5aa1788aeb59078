"""Tests of the networks and of the pre- and postprocessing modules."""

import pytest
import torch
from torch import nn

from training.networks.feedforward import (
    Affine,
    MirrorAveraged,
    Pixels,
    convolutional,
    mlp,
    nguyen_widrow_,
    residual,
)


def test_raw_pixels_become_normalised_planes() -> None:
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[1, 3, 4] = 255
    planes = Pixels(mean=0.5, std=0.25)(images)
    assert planes.shape == (2, 1, 28, 28)
    assert planes.dtype == torch.float32
    assert planes[0].unique().tolist() == [-2.0]
    assert planes[1, 0, 3, 4] == 2.0


def test_bytes_and_floats_of_the_same_image_are_normalised_equally() -> None:
    images = torch.arange(784).remainder(256).to(torch.uint8).view(1, 28, 28)
    pixels = Pixels(0.1307, 0.3081)
    assert torch.equal(pixels(images), pixels(images.float()))


def test_an_affine_layer_is_saved_and_has_no_parameters() -> None:
    layer = Affine(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5]))
    assert layer(torch.tensor([[3.0, -1.0]])).tolist() == [[1.0, 2.0]]
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"shift", "scale"}


def test_an_mlp_without_hidden_layers_is_one_linear_layer() -> None:
    network = mlp(2, (), 3, "tanh", dropout=0.5)
    assert [type(layer) for layer in network] == [nn.Linear]
    assert network[0].weight.shape == (3, 2)


@pytest.mark.parametrize(
    ("activation", "kind"), [("none", nn.Identity), ("relu", nn.ReLU), ("tanh", nn.Tanh)]
)
def test_an_mlp_has_linear_layers_activations_and_dropout_in_order(
    activation: str, kind: type[nn.Module]
) -> None:
    plain = mlp(5, (4, 3), 2, activation)
    assert [type(layer) for layer in plain] == [nn.Linear, kind, nn.Linear, kind, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in plain[::2]] == [(4, 5), (3, 4), (2, 3)]
    dropped = mlp(5, (4, 3), 2, activation, dropout=0.25)
    assert [type(layer) for layer in dropped[2:6:3]] == [nn.Dropout, nn.Dropout]
    assert dropped[2].p == 0.25


def test_two_layers_without_an_activation_are_linear() -> None:
    network = mlp(1, (10,), 1, "none")
    x = torch.linspace(0, 20, 7).unsqueeze(1)
    steps = network(x).diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand(6, 1), atol=1e-5, rtol=1e-4)


def test_the_convolutional_network_has_dropout_only_after_the_last_batch_norm() -> None:
    layers = list(convolutional((4, 6, 8), dropout=0.3))
    dropouts = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Dropout)]
    norms = [index for index, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm2d)]
    assert len(dropouts) == 1
    assert len(norms) == 6
    assert dropouts[0] > max(norms)
    assert layers[dropouts[0]].p == 0.3


def test_the_convolutional_network_takes_its_channels_from_the_hyperparameters() -> None:
    network = convolutional((4, 6, 8), dropout=0.0).eval()
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [2, 4, 6, 6, 8, 8]
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_the_residual_network_takes_channels_and_outputs_from_its_arguments() -> None:
    network = residual((4, 6, 8), 5, dropout=0.0).eval()
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 6, 6, 6, 8, 8, 8]
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 5)


def test_an_image_and_its_mirror_image_get_one_answer_outside_of_training() -> None:
    torch.manual_seed(0)
    network = MirrorAveraged(nn.Sequential(Pixels(0.5, 0.5), *residual((4, 6, 8), 5, 0.0)))
    images = torch.randint(0, 256, (3, 28, 28)).float()
    with torch.no_grad():
        assert not torch.allclose(network(images), network(images.flip(2)))
        network.eval()
        torch.testing.assert_close(network(images), network(images.flip(2)))


def test_nguyen_widrow_initialisation_spaces_the_units_evenly() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(1, 10)
    nguyen_widrow_(layer)
    centres = (-layer.bias / layer.weight[:, 0]).sort().values
    torch.testing.assert_close(centres, torch.linspace(-1, 1, 10))
    assert layer.weight.abs().unique().numel() == 1 or layer.weight.abs().std() < 1e-6
