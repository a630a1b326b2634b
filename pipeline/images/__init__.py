"""Image files into pixels: formats, decoding, resizing, and a sandbox for dangerous files.

decode              decides how a file is decoded, and decodes it
rejection           the status and reason of a file that is no readable image
formats             the format of a file by its first bytes
jpeg_structure      the segments and markers of JPEG files
tiff                the directories of TIFF files
embedded_metadata   orientation, and files without texts, profiles and thumbnails
depth               samples of more than 8 bits, scaled to 8
libtiff             errors that libtiff meets and Pillow may not notice
resize              squares of any size from decoded pixels
encode              JPEG rows of kept aspect from decoded pixels
probe               digests that show if two machines compute the same pixels
probe_images        the files that are decoded for those digests
sandbox             decoding in a child process with limits on time and memory
"""
