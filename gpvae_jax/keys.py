"""Keys that no other use of the same key reaches."""

import jax
from jaxtyping import PRNGKeyArray


def beyond_base(key: PRNGKeyArray, number: int) -> PRNGKeyArray:
    """Keys for what a method initialises besides its base, whose `init` has the key itself."""
    # fold_in(key, i) is split(key, n)[i] for small i: go through a number that no split reaches
    return jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), number)
