"""The discriminator between warped templates and images: its losses, gradients and training."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.config import parse_config
from atlasmith.core.errors import InputError
from atlasmith.template.adversary import Adversary


def images(count: int, blur: float, seed: int) -> Tensor:
    """Textures (count, 1, 32, 32) in [0, 1]."""
    noise = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed)).numpy()
    return torch.from_numpy(gaussian_filter(noise, (0, 0, blur, blur)))


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(17, 24), (16, 19, 23)])
@pytest.mark.parametrize("size", [0, 2])
def test_each_term_has_gradients_for_its_own_weights_alone(shape: tuple[int, ...], size: int) -> None:
    torch.manual_seed(0)
    adversary = Adversary(len(shape), size, [4, 8])
    moved = torch.rand(3, 1, *shape, requires_grad=True)
    terms = adversary.terms(moved, torch.rand(3, 1, *shape), torch.randn(3, size), 0.1, 1e-3, random(0))
    terms["adversarial"].backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in adversary.parameters())
    moved.grad = None
    terms["discriminator"].backward()
    assert moved.grad is None
    weights = [p for name, p in adversary.named_parameters() if name != "head.bias"]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)


def test_the_penalty_is_the_squared_gradient_at_real_images() -> None:
    torch.manual_seed(0)
    adversary = Adversary(2, 0, [4]).eval()  # in training, each call updates the spectral norms
    moved, real, code = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), torch.zeros(2, 0)
    unpenalized, penalized = (
        adversary.terms(moved, real, code, 1.0, r1, random(0))["discriminator"] for r1 in (0.0, 3.0)
    )
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(adversary(real, code).sum(), real)
    expected = 1.5 * gradient.square().sum() / 2
    assert (penalized - unpenalized).item() == pytest.approx(expected.item(), rel=1e-3)


def test_it_learns_to_distinguish_blurred_from_sharp_images() -> None:
    torch.manual_seed(0)
    adversary, code = Adversary(2, 0, [8, 16]), torch.zeros(8, 0)
    optimizer = torch.optim.Adam(adversary.parameters(), 5e-3, betas=(0.0, 0.9))
    for step in range(60):
        terms = adversary.terms(images(8, 2, step), images(8, 0.5, 100 + step), code, 0.1, 1e-3, random(step))
        optimizer.zero_grad()
        terms["discriminator"].backward()
        optimizer.step()
    with torch.no_grad():
        sharp, blurred = (adversary(images(8, blur, 999), code).mean() for blur in (0.5, 2))
    assert sharp > 0.6 > 0.4 > blurred


def test_it_learns_which_images_belong_to_which_covariate() -> None:
    """Real images are sharp at code 1 and blurred at -1; templates are the other way round."""
    torch.manual_seed(0)
    adversary = Adversary(2, 1, [8, 16])
    optimizer = torch.optim.Adam(adversary.parameters(), 5e-3, betas=(0.0, 0.9))
    code = torch.tensor([[1.0], [-1.0]])
    for step in range(150):
        sharp, blurred = images(1, 0.5, step), images(1, 2, 200 + step)
        # Templates and codes are both rolled by one, so that a template keeps its own code.
        real, templates = torch.cat([sharp, blurred]), torch.cat([blurred, sharp])
        terms = adversary.terms(templates, real, code, 0.1, 1e-3, random(step))
        optimizer.zero_grad()
        terms["discriminator"].backward()
        optimizer.step()
    pair = torch.cat([images(1, 0.5, 998), images(1, 2, 999)])
    with torch.no_grad():
        matched, mismatched = adversary(pair, code).mean(), adversary(pair, -code).mean()
    assert matched > mismatched + 0.2


def test_it_excludes_refinement() -> None:
    values = {"cohort": {"bids": "d"}, "template": {"adversary": {"weight": 0.1}}}
    with pytest.raises(InputError, match=r"refinement\.rounds: 0"):
        parse_config(values)
    values["template"]["refinement"] = {"rounds": 0}
    assert parse_config(values).template.adversary.weight == 0.1
