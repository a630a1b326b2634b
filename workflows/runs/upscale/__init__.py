"""The implementation of `tesserae upscale`: images, enlarged by a trained network.

command   the command               images   reading: pixels, transparency, metadata
files     which file becomes which  strips   the enlarged image, from top to bottom
png       a PNG, written by strips  jpeg     a JPEG, written by strips
store     the images of a store, enlarged on a cluster
"""
