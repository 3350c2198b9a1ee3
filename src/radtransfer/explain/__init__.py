"""Where the models look: Grad-CAM and LIME."""
