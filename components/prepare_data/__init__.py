"""The stage `prepare_data`: from a source of images to the `dataset/` artifact."""
