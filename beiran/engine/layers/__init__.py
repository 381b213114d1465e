"""The bytes of layers: decompression, tar-split assembly, sizes, verified reading."""
