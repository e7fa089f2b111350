"""Keys beside those that a method over a base hands on to it."""

import jax
from jaxtyping import PRNGKeyArray

FLOW_KEY = 3  # folded into the key of a flow's init, of which the first three splits make decoder, encoder and head


def beyond_base(key: PRNGKeyArray, number: int) -> PRNGKeyArray:
    """Keys for what a method initialises besides its base, whose `init` has the key itself.

    The base's own splits do not reach them. A base that is itself built over another does, so that of two such layers
    equal networks start equal: nothing is drawn from these keys but first weights.
    """
    # fold_in(key, i) is split(key, n)[i] for small i: go through a number that no split reaches
    return jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), number)
