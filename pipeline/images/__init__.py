"""Image files into pixels: formats, decoding, resizing, and a sandbox for dangerous files."""
