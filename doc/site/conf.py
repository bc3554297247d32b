"""How Sphinx makes the site; `build.py` writes what it is made of."""

from nbdfork import __version__

project = "nbdfork"
release = __version__
html_title = f"nbdfork {release}"
extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
default_role = "code"  # as the docstrings have it
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 60
