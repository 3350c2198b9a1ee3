"""Bundles: all that is needed to predict, under a version."""
