"""The site of `make docs`: README, the pages of docs/, the notebooks with their outputs, and the docstrings.

The sources are read where they lie, from the repository's root, so that a relative link means the same on a code host
and in the site. Nothing is fetched: mathematics becomes MathML at build time.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

project = "gpvae_jax"
author = "The gpvae_jax authors"
copyright = "The gpvae_jax authors, MIT licence"
root_doc = "README"
include_patterns = [
    "README.md",
    "docs/*.md",
    "docs/api/*",
    "experiments/notebooks/*.ipynb",
    "experiments/*.md",
    "experiments/results/*.md",
]
exclude_patterns = [".*", "build", "runs", "**/__pycache__"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "site_extension"]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `make notebooks` executes them, and the tests check that they run
html_theme = "furo"
html_title = "gpvae_jax"
html_math_renderer = "mathml"
html_css_files = ["site.css"]
html_static_path = ["static"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
