"""The AI worker: bridges the frames of a call to a speech model."""
