"""The Docker Engine as an image store: lists, events, layers, load and save."""
