"""The books as the generator sees them: with their line breaks, and as prose whose sentences can be told apart."""

import bisect
import re
from pathlib import Path

HELD_OUT = ("austen-6", "carroll-alice", "shakespeare-hamlet")
NOISE = b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


class Prose:
    """A text with single spaces, which ends sentences where `asynctls eval` ends them."""

    def __init__(self, text):
        self.bytes = b" ".join(text.split()) + b" "
        self.ends = [match.end() for match in re.finditer(rb"[.!?][\"')\]]* ", self.bytes)] or [len(self.bytes)]

    def pieces(self, rng, room):
        """Sentences one after the other from anywhere, `room` bytes at most, each with the space behind it."""
        i = rng.randrange(len(self.ends))
        out = []
        while True:
            if i + 1 == len(self.ends):
                i = 0
            start = self.ends[i]
            # As many sentences as fit are one look-up away.
            last = min(bisect.bisect_right(self.ends, start + room) - 1, len(self.ends) - 1)
            if last <= i:
                return out
            out += [self.bytes[self.ends[j]:self.ends[j + 1]] for j in range(i, last)]
            room -= self.ends[last] - start
            i = last


class Noise:
    """RULER's noise, a unit a line."""

    def pieces(self, rng, room):
        return [NOISE + b"\n"] * (room // (len(NOISE) + 1))


class Library:
    def __init__(self, folder, held_out=False):
        paths = [path for path in sorted(Path(folder).glob("*.txt")) if (path.stem in HELD_OUT) == held_out and "question" not in path.stem]
        assert paths, f"no texts in {folder}: see texts.py"
        texts = [path.read_bytes() for path in paths]
        self.texts = texts
        self.sizes = [len(text) for text in texts]
        self.prose = [Prose(text) for text in texts]

    def raw(self, rng, length):
        """A stretch of a book, the next book behind its end."""
        i = rng.choices(range(len(self.texts)), self.sizes)[0]
        start = rng.randrange(self.sizes[i])
        out = self.texts[i][start:start + length]
        while len(out) < length:
            i = (i + 1) % len(self.texts)
            out += b"\n\n" + self.texts[i][:length - len(out) - 2]
        return out[:length]

    def a_prose(self, rng):
        return rng.choices(self.prose, self.sizes)[0]
