"""What the reproduction of Cremer et al. makes of per-example values."""

import numpy as np
import pytest

from experiments.cremer import markdown, summaries

VALUES = {
    "ais": [-90.0, -88.0],
    "iwae": [-91.0, -87.0],
    "elbo": [-96.0, -92.0],
    "factorised": [-93.0, -90.0],
    "full": [-92.0, -89.0],
    "flow": [-91.5, -88.5],
    "factorised_converged": [1.0, 0.0],
    "full_converged": [1.0, 1.0],
    "flow_last_gain": [0.1, 0.3],
}


def test_the_gaps_of_every_family_add_up():
    row = summaries({name: np.asarray([values]) for name, values in VALUES.items()}, "flow")
    assert row["log p̂"].mean == pytest.approx(-88.5)  # the larger of the two, image by image
    for family, own in (("factorised", -91.5), ("full", -90.5), ("flow", -90.0)):
        gaps = row[family]
        assert gaps["L[q*]"].mean == pytest.approx(own)
        assert gaps["approximation"].mean == pytest.approx(-88.5 - own)
        assert gaps["amortization"].mean == pytest.approx(own + 94.0)
        assert gaps["inference"].mean == pytest.approx(5.5)
    assert row["factorised"]["converged"] == 0.5
    table = markdown({"iaf, test": row})
    assert "| **-90.00 ± 1.50** |" in table  # its own family
    assert table.splitlines()[2].endswith("| 1.50 ± 0.00 | 4.00 ± 0.50 | 5.50 ± 0.50 |")
