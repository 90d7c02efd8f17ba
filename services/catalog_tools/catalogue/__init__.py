"""The sample catalogue: plumbing fittings with German names, made by `generate.py`."""
