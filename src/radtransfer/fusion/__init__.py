"""Features of several models, fused, and the classical classifiers on them."""
