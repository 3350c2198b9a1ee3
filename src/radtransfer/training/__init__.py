"""Backbones, their weights, and the training loop."""
