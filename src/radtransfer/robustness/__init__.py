"""What becomes of the scores when the test images are changed."""

MASKED, CONTROL = "lesion_masked", "lesion_control"
"""Changes: the annotated lesions hidden, and as much hidden elsewhere."""
