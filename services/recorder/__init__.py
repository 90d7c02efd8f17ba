"""Records calls from the bus: stereo, the caller left, what the caller heard right."""
