"""pythae's own VAE, model with an inverse autoregressive flow and trainer, on the networks of `torch_vae`.

Its images are binarised once, beforehand: it has no place for dynamic binarisation, and so has less to do.
"""

import logging
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAE_IAF, BaseAE, VAE_IAF_Config, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn

from benchmarks.peers import torch_vae

FLOW_STEPS, FLOW_WIDTH = 2, 512  # as `gpvae_jax.methods.iaf`


class _Encoder(BaseEncoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.latent_dim = network, torch_vae.LATENT_DIM

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.network(x).chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class _Decoder(BaseDecoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


def _model(method: str, architecture: str) -> BaseAE:
    encoder, decoder = torch_vae.ARCHITECTURES[architecture]()
    common = {"input_dim": (1, 28, 28), "latent_dim": torch_vae.LATENT_DIM, "reconstruction_loss": "bce"}
    networks = {"encoder": _Encoder(encoder), "decoder": _Decoder(decoder)}
    if method == "vae":
        return VAE(VAEConfig(**common), **networks)
    # its flow's steps see z alone, not the encoder's features
    flow = {"n_made_blocks": FLOW_STEPS, "n_hidden_in_made": 1, "hidden_size": FLOW_WIDTH}
    return VAE_IAF(VAE_IAF_Config(**common, **flow), **networks)


def make_epoch(method: str, architecture: str, images: np.ndarray, batch_size: int) -> Callable[[], float]:
    """A function that trains "vae" or "iaf" for one epoch over images[N, 28, 28, 1] (uint8); returns the mean loss."""
    torch.manual_seed(0)
    logging.disable(logging.INFO)  # its loggers set their own level
    data = torch.bernoulli(torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255)))
    dataset = BaseDataset(data, torch.zeros(len(data)))
    model = _model(method, architecture)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=batch_size, learning_rate=1e-3)
        trainer = BaseTrainer(model, dataset, training_config=config)
        trainer.prepare_training()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)  # no progress bars
    return lambda: float(trainer.train_step(1))
