"""What the page behind Table 1 says of the papers' claims, from made-up rows."""

import numpy as np

from experiments.table1 import claims


def row(bound: float, validation: float, spread: float = 0.0) -> dict:
    """A finished row whose bounds scatter about `bound`, image by image, by `spread` from every other row's."""
    noise = np.random.default_rng(0).standard_normal(100)
    images = bound + spread * (noise - noise.mean())
    seeds = images.mean() + np.array([-0.01, 0.0, 0.01])
    return {"validation_elbo": validation, "values": {"bound": "iwae_4", "images": list(images), "seeds": list(seeds)}}


def test_the_sentence_says_where_the_papers_order_holds_and_where_not():
    rows = {
        "vae": row(-90, -90),
        "gpvae": row(-91, -91, spread=0.5),
        "savi 1": row(-89, -95),
        "savi 2": row(-88, -88),
        "iaf 2": row(-88.1, -88, spread=2.0),
        "savi 2 on gpvae": row(-80, -80),
    }
    text = claims.sentence(rows)
    assert "agrees: savi 2 above vae (+2.00 ± 0.00 nats)" in text
    assert "differs: vae above gpvae (+1.00 ± 0.05 nats)" in text
    assert "cannot be told: iaf 2 and savi 2 (" in text
    assert claims.sentence({"vae": rows["vae"]}).startswith("None of the papers' claims")


def test_an_image_without_a_finite_bound_is_no_comparison():
    lost = row(-88, -88)
    lost["values"]["images"][3] = None
    assert np.isnan(claims.gain({"vae": row(-90, -90), "savi 2": lost}, "savi 2", "vae").p_value)
    assert claims.sentence({"vae": row(-90, -90), "savi 2": lost}).startswith("None of the papers' claims")
