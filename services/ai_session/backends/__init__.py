"""Speech backends behind one port; see `port.py`."""
