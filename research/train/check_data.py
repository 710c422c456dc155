#!/usr/bin/env python3
"""Checks what data.py makes, on a CPU and without PyTorch: the wording is the engine's, answers are in the text, seeds decide everything.

    python research/train/check_data.py
"""

import random
import re
from pathlib import Path

import numpy as np

import data
from texts_read import NOISE, Library

ROOT = Path(__file__).resolve().parents[2]


def spoken(parts):
    return b"".join(parts.bytes).decode()


def wording():
    """The sentences of src/eval/tasks, in which string literals go on behind a backslash."""
    source = "".join((ROOT / "src/eval/tasks" / name).read_text() for name in ("needles.rs", "variables.rs", "filling.rs", "words.rs"))
    source = re.sub(r"\\\n\s*", "", source)
    for sentence in [*data.BEFORE.values(), NOISE.decode(), "One of the special magic numbers for {key} is: {number}.",
                     "What is the special magic number for {keys}", "The special magic number for {keys} mentioned in the provided text is",
                     "What are all the special magic numbers for {keys}", "The special magic numbers for {keys} mentioned in the provided text are",
                     "Which {VARIABLES} variables hold the value {value}, directly or by way of other variables?",
                     "The {VARIABLES} variables that hold the value {value} are"]:
        assert sentence in source, sentence
    assert [len(words) for words in data.words()] == [144, 137]


def answers(library):
    for task in data.NEEDLES:
        for seed in range(20):
            text = spoken(data.asked_alone(random.Random(seed), task, 3000, library))
            context, question, rest = text.rsplit("\n", 3)[0:3]
            prefix = {"single": "The special magic number for ", "multikey": "The special magic number for ", "chain": "The 5 variables that hold "}
            assert rest.startswith(prefix.get(task, "The special magic numbers for ")), rest
            found = re.findall(r"\b[A-Z]{5}\b" if task == "chain" else r"\b\d{7}\b(?!:)", rest.split(" text ")[-1].split(" are ")[-1])
            assert len(found) >= (1 if task in ("single", "multikey") else 4), rest
            for value in found:
                assert f"is: {value}." in context or f"VAR {value} = " in context, (task, value, rest)
            assert len(text) <= 3000
            if task == "chain":
                assert len(rest.split(" are")[1].rstrip("\0")) == 30, "as many tokens as the engine leaves"


def seeds(library):
    for name in data.MAKERS:
        for length in (512, 4096):
            one, two, other = (data.batch(seed, 7, {name: 1}, length, 4, library) for seed in (1, 1, 2))
            assert (one[0] == two[0]).all() and (one[1] == two[1]).all() and (one[0] != other[0]).any(), name
            tail = data.batch(1, 7, {name: 1}, length, 2, library, first=2)
            assert (tail[0] == one[0][2:]).all(), "rows of another rank"
            assert one[0].shape == one[1].shape == (4, length + 1) and one[0].min() > 0 and one[0].max() <= data.END
            if name != "text":
                assert np.isin(one[1], [data.TEXT, data.GIVEN]).mean() < 1, name


if __name__ == "__main__":
    texts = Library(ROOT / "demo")
    wording()
    answers(texts)
    seeds(texts)
    print("as it should be")
