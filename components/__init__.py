"""One thin KFP component per step."""
