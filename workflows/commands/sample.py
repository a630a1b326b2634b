"""Create a small ImageNet-shaped folder from the photographs in scikit-image's wheel.

    DIR/train/<wnid>/<wnid>_<number>.JPEG
    DIR/val/<wnid>/val_<number>.JPEG
    DIR/LOC_synset_mapping.txt              wnid and words of each class
    DIR/is-a.txt                            taxonomy: a parent and a child class on each line
    DIR/sample.json                         the options and the contents; written last

The images are random crops, some mirrored, with varied brightness and with ImageNet's distribution
of sizes. They include a few greyscale images, a CMYK JPEG, a PNG named .JPEG, a truncated file and
an empty file. The same options, photographs and Pillow version give the same bytes. Nothing is
downloaded.

No photograph is in both train and val. The wheel has a single photograph of most subjects, so the
classes are broad: `person` is trained on an astronaut and evaluated on a photographer. The sample
checks that the pipeline works; metrics measured on it mean nothing.

200 images take 2 s and 15 MB, 2,000 images take 15 s and 150 MB, on one core.
"""

from workflows.commands import Command
from workflows.sample_data.options import SampleOptions

COMMAND = Command((SampleOptions,), "workflows.sample_data.sample:run_sample")
