"""What becomes of the scores when the test images are changed."""
