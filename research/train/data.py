"""Sequences made on the fly, from seeds: retrieval, copying, counting and real text.

Every token has a kind: a task whose answer it is part of, TEXT (scored at a lower weight) or GIVEN (not scored: what no model can know,
or has no need to). `sequence` makes one, `batch` makes those of a step; the same seeds give the same bytes everywhere."""

import random
import re
from functools import cache
from pathlib import Path

import numpy as np

from texts_read import Noise

END = 257  # <|endoftext|>, which is byte 0 while a sequence is put together
GIVEN, TEXT = 255, 0
TASKS = ["text", "recall", "stream", "copy", "single", "multikey", "multivalue", "multiquery", "chain", "code", "story", "count",
         "common", "frequent"]
KIND = {name: i for i, name in enumerate(TASKS)}
NEEDLES = ("single", "multikey", "multivalue", "multiquery", "chain")
LOWER, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
ALPHABETS = [LOWER, DIGITS, LOWER + DIGITS, LOWER.upper(), LOWER.upper() + LOWER + DIGITS]
WORDS = Path(__file__).resolve().parents[2] / "src/eval/tasks/words.rs"


@cache
def words():
    """The adjectives and nouns of the names that `asynctls eval retrieval` draws."""
    lists = re.findall(r"const (?:ADJECTIVES|NOUNS): \[&str; \d+\] = \[(.*?)\];", WORDS.read_text(), re.DOTALL)
    return [re.findall(r'"([a-z]+)"', one) for one in lists]


def name(rng):
    adjectives, nouns = words()
    return f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


def letters(rng, alphabet, count):
    return "".join(rng.choices(alphabet, k=count))


def number(rng, digits=7):
    return str(rng.randrange(10 ** (digits - 1), 10 ** digits))


def syllables(rng, count):
    """A made-up word that can be said: needles that look like the haystack have names of these."""
    return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice(("a", "e", "i", "o", "u", "ai", "ea", "or", "en", "al"))
                   for _ in range(count))


def keys(rng, count):
    """Distinct keys; often near-duplicates of each other."""
    kind = rng.random()
    out = {}
    adjectives, nouns = words()
    if kind < 0.35:
        draw = lambda: name(rng)
    elif kind < 0.65:
        # A grid: each key shares its adjective with some and its noun with others.
        side = 2
        while side * side < 2 * count:
            side += 1
        some, others = rng.sample(adjectives, min(side, 140)), rng.sample(nouns, min(side, 130))
        draw = lambda: f"{rng.choice(some)}-{rng.choice(others)}"
    elif kind < 0.8:
        base = [name(rng) for _ in range(max(1, count // 6))]
        draw = lambda: f"{rng.choice(base)}-{rng.randrange(10, 100)}"
    else:
        # Letters, some of which differ from another key in one place.
        length = rng.randint(4, 9)
        alphabet = rng.choice(ALPHABETS)

        def draw():
            if out and rng.random() < 0.5:
                other = list(rng.choice(list(out)[-64:]))
                other[rng.randrange(length)] = rng.choice(alphabet)
                return "".join(other)
            return letters(rng, alphabet, length)
    while len(out) < count:
        out[draw()] = None
    out = list(out)
    rng.shuffle(out)
    return out


def listed(items):
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])}, and {items[-1]}"


class Parts:
    """A sequence that grows."""

    def __init__(self):
        self.bytes, self.lengths, self.kinds, self.size = [], [], [], 0

    def add(self, text, kind):
        text = text.encode() if isinstance(text, str) else text
        if text:
            self.bytes.append(text)
            self.lengths.append(len(text))
            self.kinds.append(kind)
            self.size += len(text)

    def extend(self, other):
        self.bytes += other.bytes
        self.lengths += other.lengths
        self.kinds += other.kinds
        self.size += other.size

    def arrays(self, length):
        tokens = np.frombuffer(b"".join(self.bytes), np.uint8)[:length].astype(np.int16)
        tokens[tokens == 0] = END
        return tokens, np.repeat(np.array(self.kinds, np.uint8), self.lengths)[:length]


# Short formats, from which recall emerges.

def recall(rng, length, library):
    """Pairs of a key and a value, then the keys again in another order, each with its value to be told."""
    parts = Parts()
    room = length - 8
    key_length = rng.randint(1, 3) if length <= 256 else rng.randint(2, 8)
    value_length, sign, end = rng.randint(1, 4), rng.choice("=:>- "), rng.choice(";,\n|")
    a, b = rng.choice(ALPHABETS), rng.choice(ALPHABETS)
    size = key_length + value_length + 2
    count = min(int(room / size * rng.uniform(0.3, 0.6)), len(a) ** key_length // 2, 400)
    table = {}
    while len(table) < count:
        table[letters(rng, a, key_length)] = letters(rng, b, value_length)
    parts.add("".join(f"{key}{sign}{value}{end}" for key, value in table.items()), GIVEN)
    order = list(table)
    if length > 1024 and rng.random() < 0.7:
        # A haystack between the pairs and the questions.
        parts.add(library.raw(rng, int((room - parts.size) * rng.uniform(0.2, 0.8))), TEXT)
    parts.add("\n?", GIVEN)
    while parts.size + size <= length:
        rng.shuffle(order)
        for key in order:
            parts.add(key + sign, GIVEN)
            parts.add(table[key] + end, KIND["recall"])
            if parts.size + size > length:
                break
    return parts


def stream(rng, length, library):
    """Pairs in any order: a key that was there before has the value that it had."""
    parts = Parts()
    key_length = rng.randint(1, 3) if length <= 256 else rng.randint(2, 8)
    value_length, sign, end = rng.randint(1, 4), rng.choice("=:>- "), rng.choice(";,\n|")
    a, b = rng.choice(ALPHABETS), rng.choice(ALPHABETS)
    size = key_length + value_length + 2
    fresh = rng.uniform(0.2, 0.5)
    table, order = {}, []
    while parts.size + size <= length:
        if not order or (rng.random() < fresh and len(order) < len(a) ** key_length // 2):
            key = letters(rng, a, key_length)
            if key not in table:
                table[key] = letters(rng, b, value_length)
                order.append(key)
                parts.add(f"{key}{sign}{table[key]}{end}", GIVEN)
                continue
        # All keys alike, or the last ones more often.
        key = rng.choice(order) if rng.random() < 0.6 else order[-1 - int(len(order) * rng.random() ** 3)]
        parts.add(key + sign, GIVEN)
        parts.add(table[key] + end, KIND["stream"])
    return parts


def copy(rng, length, library):
    """Strings that come again: at once or behind others, or behind a haystack."""
    parts = Parts()
    while parts.size < length:
        longest = max(8, min(200, (length - parts.size) // 3))
        alphabet = rng.choice(ALPHABETS)
        texts = [letters(rng, alphabet, rng.randint(6, longest)) for _ in range(rng.randint(1, 3))]
        for text in texts:
            parts.add(text + "\n", GIVEN)
        if length > 512 and rng.random() < 0.5:
            parts.add(library.raw(rng, rng.randint(1, max(1, (length - parts.size) // 2))) + b"\n", TEXT)
        rng.shuffle(texts)
        for text in texts:
            start = rng.randint(3, 5)
            parts.add(text[:start], GIVEN)
            parts.add(text[start:] + "\n", KIND["copy"])
    return parts


def text(rng, length, library):
    parts = Parts()
    parts.add(library.raw(rng, length), TEXT)
    return parts


# Needles. Each group is sentences to hide, in order or not, and questions about them.

class Group:
    def __init__(self, needles, ask, in_order=False):
        self.needles, self.ask, self.in_order = needles, ask, in_order


BEFORE = {
    1: "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number afterwards.",
    2: "Some special magic numbers are hidden within the following text. Make sure to memorize them. I will quiz you about the numbers "
       "afterwards.",
    "chain": "A chain of variable assignments is hidden within the following text. Keep track of it. I will ask you about the variables "
             "afterwards.",
}


def needle(key, value):
    return f"One of the special magic numbers for {key} is: {value}."


def question(rng, parts, what, prefix, answer, kind, full):
    """The question (not always), the beginning of its answer and the rest."""
    if full:
        parts.add(what + "\n", GIVEN)
    parts.add(prefix, TEXT)
    parts.add(f" {answer}\0", KIND[kind])
    parts.add("\n", GIVEN)


def numbers_group(rng, count, kind):
    """`count` keys with a number each, asked for one at a time."""
    table = {key: number(rng) for key in keys(rng, count)}

    def ask(parts, full):
        key = rng.choice(list(table))
        question(rng, parts, f"What is the special magic number for {key} mentioned in the provided text?",
                 f"The special magic number for {key} mentioned in the provided text is", f"{table[key]}.", kind, full)
    return Group([needle(*pair) for pair in table.items()], ask)


def values_group(rng, count, counted=0.1):
    """Several numbers of one key, to be told in the order of the text."""
    [key], values = keys(rng, 1), [number(rng) for _ in range(count)]

    def ask(parts, full):
        if rng.random() < counted:
            question(rng, parts, f"How many special magic numbers for {key} are mentioned in the provided text?",
                     f"The number of special magic numbers for {key} is", f"{count}.", "count", full)
            return
        question(rng, parts, f"What are all the special magic numbers for {key} mentioned in the provided text?",
                 f"The special magic numbers for {key} mentioned in the provided text are", f"{', '.join(values)}.", "multivalue", full)
    return Group([needle(key, value) for value in values], ask, in_order=True)


def queries_group(rng, count, asked=4):
    """Several keys asked for at once; the answer says which number is whose."""
    table = {key: number(rng) for key in keys(rng, count)}

    def ask(parts, full):
        some = rng.sample(list(table), min(asked, count))
        what = listed(some)
        question(rng, parts, f"What are all the special magic numbers for {what} mentioned in the provided text?",
                 f"The special magic numbers for {what} mentioned in the provided text are",
                 f"{', '.join(f'{key}: {table[key]}' for key in some)}.", "multiquery", full)
    return Group([needle(*pair) for pair in table.items()], ask)


def chain_group(rng, count=5):
    """Variables that hand a value on. Thirty tokens are left for an answer: five names with a space before each."""
    names = set()
    while len(names) < count:
        names.add(letters(rng, LOWER.upper(), 5))
    names = sorted(names)
    rng.shuffle(names)
    value = number(rng, 5)
    sentences = [f"VAR {names[0]} = {value}."] + [f"VAR {b} = VAR {a}." for a, b in zip(names, names[1:])]

    def ask(parts, full):
        question(rng, parts, f"Which {count} variables hold the value {value}, directly or by way of other variables?",
                 f"The {count} variables that hold the value {value} are", " ".join(names), "chain", full)
    return Group(sentences, ask, in_order=True)


def codes_group(rng, count):
    """Long codes for keys, letter by letter."""
    alphabet = rng.choice(ALPHABETS)
    table = {key: letters(rng, alphabet, rng.randint(8, 32)) for key in keys(rng, count)}

    def ask(parts, full):
        key = rng.choice(list(table))
        question(rng, parts, f"What is the secret code of {key}?", f"The secret code of {key} is", table[key], "code", full)
    return Group([f"Remember that the secret code of {key} is {code}." for key, code in table.items()], ask)


ROLES = ("keeper", "captain", "owner", "friend", "sister", "brother", "master", "servant", "daughter", "teacher", "doctor", "cousin")
SAID = ("had long been known as", "was called", "went by the name of", "was, as everyone knew,")


def stories_group(rng, count):
    """Needles that look like the haystack: a sentence among sentences, and a name of letters for an answer."""
    table = {}
    while len(table) < count:
        table[rng.choice(ROLES), syllables(rng, 2).capitalize()] = syllables(rng, rng.randint(2, 3)).capitalize()

    def ask(parts, full):
        role, of = rng.choice(list(table))
        question(rng, parts, f"What was the name of the {role} of {of}?", f"The name of the {role} of {of} was", f"{table[role, of]}.",
                 "story", full)
    return Group([f"The {role} of {of} {rng.choice(SAID)} {who}." for (role, of), who in table.items()], ask)


def hide(rng, groups, pieces, parts, separator):
    """The needles of all groups between the pieces of a haystack; those of a group in its order where it has one."""
    places = []
    for group in groups:
        at = [rng.randint(0, len(pieces)) for _ in group.needles]
        if group.in_order:
            at.sort()
        places += [(place, i, sentence) for i, (place, sentence) in enumerate(zip(at, group.needles))]
    places.sort(key=lambda place: (place[0], place[1]))
    done = 0
    for place, _, sentence in places:
        parts.add(b"".join(pieces[done:place]), TEXT)
        parts.add(sentence + separator, GIVEN)
        done = place
    parts.add(b"".join(pieces[done:]), TEXT)


def hops(rng, length, library):
    """As `packed`, but mostly chains and several values, which take longest to learn."""
    return packed(rng, length, library, (0.1, 0.4, 0.46, 0.9, 0.95), 5)


def packed(rng, length, library, shares=(0.3, 0.47, 0.6, 0.77, 0.88), largest=24):
    """Many needles of several kinds and many questions behind the haystack."""
    parts, groups, cost = Parts(), [], 0
    room = length * rng.uniform(0.3, 0.8) if length < 8192 else min(length * rng.uniform(0.1, 0.7), 40_000)
    first = True
    while cost < room:
        # Of all that is spent, needles take about 60 bytes and a question about 100.
        most = max(1, min(largest, int((room - cost) / 160)))
        kind = rng.random()
        if kind < shares[0] or most < 3:
            group = numbers_group(rng, rng.randint(1, most), "single" if most == 1 else "multikey")
        elif kind < shares[1]:
            group = values_group(rng, rng.randint(2, 4))
        elif kind < shares[2] and most >= 4:
            group = queries_group(rng, rng.randint(2, max(4, most // 2)), rng.randint(2, 4))
        elif kind < shares[3]:
            group = chain_group(rng, 5 if most >= 5 else rng.randint(2, 4))
        elif kind < shares[4]:
            group = codes_group(rng, rng.randint(1, most))
        else:
            group = stories_group(rng, rng.randint(1, most))
        groups.append(group)
        cost += sum(map(len, group.needles))
        group.questions = 1 if group.in_order else max(1, min(len(group.needles), 8))
        cost += 110 * group.questions
    asked = [group for group in groups for _ in range(group.questions)]
    rng.shuffle(asked)
    questions = Parts()
    for group in asked[:96]:
        group.ask(questions, first or rng.random() < 0.3)
        first = False
    kind = "chain" if rng.random() < 0.3 else rng.choice((1, 2))
    parts.add(BEFORE[kind] + "\n", GIVEN)
    left = length - parts.size - questions.size - sum(len(sentence) + 1 for group in groups for sentence in group.needles) - 1
    haystack(rng, groups, left, library, parts)
    parts.extend(questions)
    return parts


def haystack(rng, groups, left, library, parts):
    """Needles in `left` bytes of prose, of noise, of prose and noise, or of other needles alone."""
    kind = rng.random()
    if kind < 0.6:
        pieces, separator = library.a_prose(rng).pieces(rng, left), " "
    elif kind < 0.8:
        pieces, separator = NOISE.pieces(rng, left), "\n"
    else:
        pieces, separator = [], "\n"
        while left > 64:
            piece = needle(f"{name(rng)}-x{rng.randrange(10)}" if rng.random() < 0.3 else f"{name(rng)}s", number(rng)).encode() + b"\n"
            pieces.append(piece)
            left -= len(piece)
    if kind < 0.8:
        hide(rng, groups, pieces, parts, separator)
    else:
        before = len(parts.kinds)
        hide(rng, groups, pieces, parts, separator)
        parts.kinds[before:] = [GIVEN] * (len(parts.kinds) - before)
    parts.bytes[-1] = parts.bytes[-1][:-1] + b"\n"


def asked_alone(rng, task, length, library):
    """A prompt as `asynctls eval retrieval` words it, without chat template, and its answer."""
    group = {
        "single": lambda: numbers_group(rng, 1, "single"),
        "multikey": lambda: numbers_group(rng, 4, "multikey"),
        "multivalue": lambda: values_group(rng, 4, 0.0),
        "multiquery": lambda: queries_group(rng, 4),
        "chain": lambda: chain_group(rng),
    }[task]()
    parts, end = Parts(), Parts()
    group.ask(end, True)
    parts.add(BEFORE["chain" if task == "chain" else 1 if task in ("single", "multikey") else 2] + "\n", GIVEN)
    left = length - parts.size - end.size - sum(len(sentence) + 1 for sentence in group.needles) - 1
    if rng.random() < 0.6:
        hide(rng, [group], library.a_prose(rng).pieces(rng, left), parts, " ")
    else:
        hide(rng, [group], NOISE.pieces(rng, left), parts, "\n")
    parts.bytes[-1] = parts.bytes[-1][:-1] + b"\n"
    parts.extend(end)
    return parts


def alone(rng, length, library):
    return asked_alone(rng, rng.choice(NEEDLES), length, library)


def counted(rng, length, library):
    """The frequent words of `asynctls eval retrieval`; and its common ones, fewer of them."""
    parts = Parts()
    if rng.random() < 0.6:
        end, noise = Parts(), "..."
        ranked = [noise] + [letters(rng, LOWER, 6) for _ in range(max(7, int(length ** 0.5)))]
        question(rng, end, "What are the 3 most frequent coded words of the text?", "The 3 most frequent coded words of the text are",
                 ", ".join(ranked[1:4]) + ".", "frequent", True)
        parts.add("The following text consists of coded words and of dots, which mean nothing. Keep count of the coded words. I will ask "
                  "you about the 3 most frequent ones afterwards.\n", GIVEN)
        count = 53 + max(0, length - parts.size - end.size - 53 * 5) / 4.9
        text = [word for rank, word in enumerate(ranked, 1) for _ in range(int(count / 1.6449 / rank ** 2))]
    else:
        end, total = Parts(), 10
        adjectives, nouns = words()
        ranked = list({name(rng): None for _ in range(60 + length // 12)})
        question(rng, end, f"What are the {total} most common words of the list?", f"The {total} most common words of the list are",
                 ", ".join(ranked[:total]) + ".", "common", True)
        parts.add("Some words of the following list occur more often than the others. Keep count of them. I will ask you about the most "
                  "common ones afterwards.\n", GIVEN)
        common, uncommon = (30, 3) if length >= 4096 else (6, 1)
        text = [word for word in ranked[:total] for _ in range(common)]
        size = sum(map(len, text)) + len(text)
        for word in ranked[total:]:
            size += uncommon * (len(word) + 1)
            if size > length - parts.size - end.size:
                break
            text += [word] * uncommon
    rng.shuffle(text)
    parts.add(" ".join(text)[:max(0, length - parts.size - end.size - 1)] + "\n", GIVEN)
    parts.extend(end)
    return parts


NOISE = Noise()
MAKERS = {"recall": recall, "stream": stream, "copy": copy, "text": text, "packed": packed, "hops": hops, "alone": alone, "counted": counted}


def sequence(rng, mix, length, library):
    """One sequence of `length` + 1 tokens, and their kinds."""
    maker = MAKERS[rng.choices(list(mix), list(mix.values()))[0]]
    parts = maker(rng, length + 1, library)
    if parts.size <= length:
        parts.add(library.raw(rng, length + 1 - parts.size), TEXT)
    return parts.arrays(length + 1)


def batch(seed, step, mix, length, count, library, first=0):
    """The sequences `first` to `first + count` of a step: two arrays of [count, length + 1]."""
    made = [sequence(random.Random(f"{seed} {step} {first + row}"), mix, length, library) for row in range(count)]
    return np.stack([tokens for tokens, _ in made]), np.stack([kinds for _, kinds in made])
