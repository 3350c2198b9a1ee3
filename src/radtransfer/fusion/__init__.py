"""Features of several models, fused, and the classical classifiers on them."""

FUSED = "fused"  # features: those of all backbones side by side
HEAD = "head"  # classifier: the network's own output; on FUSED: the mean of all networks' (late fusion)
STACKING = "stacking"  # classifier, on FUSED: a logistic regression on the outputs of all networks (late fusion)
