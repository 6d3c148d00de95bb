"""Augmented views of images and captions, and tokens."""
