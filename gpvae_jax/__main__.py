"""`python -m gpvae_jax` is `gpvae`."""

import sys

from gpvae_jax.cli import main

sys.exit(main())
