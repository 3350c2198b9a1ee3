"""From files to an image store: decode, letterbox, validate, group, split."""
