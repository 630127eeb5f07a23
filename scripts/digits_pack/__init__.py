"""Tools that rebuild the embedded digits pack; run them through ``build_digits_pack.py``."""
