"""How Sphinx builds the site. Nothing is fetched: it builds without a network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_extensions"), str(Path(__file__).parents[1])]

from lightning_distill import __version__  # noqa: E402

project = "lightning_distill"
author = "The lightning_distill authors"
project_copyright = "the lightning_distill authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "mathml", "sphinx_copybutton", "reference"]
html_math_renderer = "mathml"
exclude_patterns = ["_extensions", "build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "text"  # of blocks that name none: commands and formulas
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries = False
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["mathml.css"]
html_title = f"lightning_distill {__version__}"
html_theme_options = {"top_of_page_buttons": []}
