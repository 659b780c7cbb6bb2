"""An image's file becomes pixels, as the base's own image processor makes them. Called through `processors`."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from typing_extensions import override

from raylora.data.tokens.values import Processor
from raylora.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Of image files, in Pillow's words: each is read by Pillow itself, and by no program that it would start."""

BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)
"""What Pillow raises on files that are not whole, or of no kind it knows."""

MOST_PIXELS = 2**26
"""Of one image, 67 million: a file of a few kB may hold as many as a machine has no memory for."""

MODES = {1: ("1", "L"), 3: ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")}
"""By the channels of a base, the kinds of images that become its pixels as transformers makes them: 8 bits each."""


class ImageProcessor(Processor):
    """Makes pixels of image files: (C, H, W)."""

    task = "image_cls"
    what, bases = "images", "a vision transformer (ViT) of 1 or 3 channels"
    libraries = ("pillow", "numpy")

    @override
    def _load(self, folder: Path) -> Any:
        from transformers import AutoImageProcessor  # only runs on images wait for it

        # Pillow's resizing: torchvision's makes other pixels, and one node may have it and another not.
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")

    @override
    def _takes(self, size: tuple[int, ...]) -> bool:
        return size[0] in MODES

    @override
    def _made(self, content: bytes) -> NDArray[Any]:
        image, num_channels = _opened(content), self.shape.size[0]
        if image.mode not in MODES[num_channels]:
            raise DataError(
                f"a file of mode {image.mode} with {len(image.getbands())} channels; the base takes {num_channels}. "
                f"Allowed: {', '.join(MODES[num_channels])}. Convert the file, or take another base"
            )
        made = self._process(image.convert("RGB" if num_channels == 3 else "L"), return_tensors="np")
        pixels_CHW: NDArray[Any] = made["pixel_values"][0]
        return pixels_CHW


def _opened(content: bytes) -> Any:
    """The image of a file, the way up that its camera says."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise DataError(f"has {image.width:,} x {image.height:,} pixels; allowed: {MOST_PIXELS:,}. Make it smaller")
        image.load()
        return ImageOps.exif_transpose(image)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise DataError(
            f"no image that can be read ({error}). Allowed: {', '.join(FORMATS)}, in files that are whole"
        ) from error
