"""A recording becomes a spectrogram, as the base's own feature extractor makes it. Called through `processors`."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from raylora.data.tokens.values import Processor
from raylora.errors import DataError

FRAME_S = 0.025
"""Of what a frame of a spectrogram is made: a shorter recording has none, and would be padding alone."""

FRAME_SAMPLES = 400
"""The same where transformers makes the frames itself, for want of torchaudio, whatever the samples a second."""


class AudioProcessor(Processor):
    """Makes spectrograms of recordings: (frames, frequencies). A longer one is cut at its end, a shorter one padded."""

    task = "audio_cls"
    what, bases = "recordings", "an audio spectrogram transformer (AST)"
    libraries = ("torchaudio", "torch", "numpy")

    @override
    def _load(self, folder: Path) -> Any:
        from transformers import AutoFeatureExtractor  # only runs on recordings wait for it

        return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    @override
    def _made(self, content: bytes) -> NDArray[Any]:
        rate, samples = _opened(content)
        if rate != self._process.sampling_rate:
            raise DataError(
                f"has {rate:,} samples a second; the base takes {self._process.sampling_rate:,}. Resample the file"
            )
        if len(samples) < (least := round(FRAME_S * rate)):
            raise DataError(f"holds {len(samples):,} samples, less than a frame of {least:,}; take a longer recording")
        # Frames overlap, so that no more of the samples come into those that are kept.
        most = self.shape.size[0] * max(least, FRAME_SAMPLES)
        made = self._process(samples[:most].astype(np.float32) / 2**15, sampling_rate=rate, return_tensors="np")
        values_TF: NDArray[Any] = made["input_values"][0]
        return values_TF


def _opened(content: bytes) -> tuple[int, NDArray[np.int16]]:
    """Samples a second, and the samples."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            about = file.getparams()
            data = file.readframes(about.nframes)
    except (wave.Error, EOFError, RuntimeError) as error:
        raise DataError(
            f"no recording that can be read ({error or 'it ends early'}). Allowed: WAV of 16 bits, one channel"
        ) from error
    if (about.nchannels, about.sampwidth) != (1, 2):
        raise DataError(
            f"has {about.nchannels} channels of {8 * about.sampwidth} bits. Allowed: one of 16. Convert the file"
        )
    if not data or len(data) < 2 * about.nframes:
        raise DataError(f"holds {len(data) // 2:,} samples, and says {about.nframes:,}; copy a file that is whole")
    return about.framerate, np.frombuffer(data, dtype="<i2")
