"""The same VAE in plain PyTorch, on one thread: its training loop and its inference, what a PyTorch user would write.

Layer for layer `networks.mlp` and `networks.conv_encoder` / `conv_decoder` with their default widths, Bernoulli
likelihood, dynamic binarisation, one sample, closed-form KL, Adam.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LATENT_DIM = 20
torch.set_num_threads(1)


class Crop(nn.Module):
    """Cut the last row and column: 8×8, grown from 4×4, to 7×7."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :-1, :-1].contiguous()


def mlp() -> tuple[nn.Module, nn.Module]:
    """400-400 encoder and decoder for 28×28 images."""
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2 * LATENT_DIM)
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT_DIM, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 784),
        nn.Unflatten(1, (1, 28, 28)),
    )  # fmt: skip
    return encoder, decoder


def conv() -> tuple[nn.Module, nn.Module]:
    """Three 4×4 stride-2 convolutions with 32, 64, 128 channels, then 256 units, and the mirror image."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU(),  # 7 -> 4
        nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 2 * LATENT_DIM),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENT_DIM, 256), nn.ReLU(), nn.Linear(256, 2048), nn.ReLU(), nn.Unflatten(1, (128, 4, 4)),
        nn.ConvTranspose2d(128, 64, 4, 2, 1), Crop(), nn.ReLU(),  # 4 -> 8 -> 7
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


ARCHITECTURES: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {"mlp": mlp, "conv": conv}


def make_epoch(
    architecture: str, images: np.ndarray, batch_size: int, *, compiled: bool = False
) -> Callable[[], float]:
    """A function that trains one epoch over images[N, 28, 28, 1] (uint8) and returns its mean loss.

    compiled: forward pass and loss, and with them the backward pass, through `torch.compile`.
    """
    torch.manual_seed(0)
    encoder, decoder = ARCHITECTURES[architecture]()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    data = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def loss_of(raw: Tensor) -> Tensor:
        x = torch.bernoulli(raw.float() / 255)
        mean, log_std = encoder(x).chunk(2, dim=1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        reconstruction = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
        return (reconstruction + kl) / len(x)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(raw: Tensor) -> Tensor:
        loss = loss_of(raw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def epoch() -> float:
        order = torch.randperm(len(data))
        losses = [step(data[rows]) for rows in order.split(batch_size) if len(rows) == batch_size]
        return torch.stack(losses).mean().item()

    return epoch


def encode(architecture: str, batch: int, dtype: str, *, sample: bool) -> Callable[[], object]:
    """Inference of a batch: q(z|x), and with `sample` one draw of it and that draw's log-density."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    encoder = ARCHITECTURES[architecture]()[0].to(kind)
    x = torch.bernoulli(torch.full((batch, 1, 28, 28), 0.2)).to(kind)

    @torch.inference_mode()
    def call() -> object:
        mean, log_std = encoder(x).chunk(2, dim=1)
        if not sample:
            return mean, log_std
        noise = torch.randn_like(mean)
        log_prob = -0.5 * noise.square().sum(1) - log_std.sum(1) - 0.5 * LATENT_DIM * math.log(2 * math.pi)
        return mean + log_std.exp() * noise, log_prob

    return call
