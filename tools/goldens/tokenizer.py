#!/usr/bin/env python3
"""Writes tests/goldens/tokenizer.json: hard strings and the ids that SmolLM2's tokenizer gives them.

    pip install gguf==0.19.0 tokenizers==0.23.3
    tools/goldens/tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf tests/goldens/tokenizer.json

The ids come from Hugging Face's tokenizers, set up as SmolLM2's published tokenizer.json has it, on
the vocabulary and merges of the model file. A second BPE written here in plain Python, which
shares no code with it, must give the same ids.
"""

import json
import sys
import unicodedata

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3

PARAGRAPH = (
    "In 1609 Thomas Thorpe's quarto gave the world 154 sonnets (SHAKE-SPEARES SONNETS. Neuer before Imprinted.); "
    "it's been said they'd never have been printed, if he'd had his way. Prices were 5d., perhaps 6d. — who'll "
    "know? We've letters, wills & bonds; I'm told they're \"authentic\", though 'twas doubted ere 1795. "
    "Temperatures fell to -12.5°C (9.5°F), e.g. at 51°30′N, 0°7′W; π≈3.14159, ½+¼=¾, x²+y²=z². "
    "Naïve façades, œuvres, Ångströms, Straße, 東京都 and Москва all appear.\tTabbed,\r\nbroken  lines   too.\n\n"
)

SPECIAL = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

TEXTS = [
    "",
    " ",
    "  ",
    "   leading and trailing   ",
    "a  b   c    d                    e",
    "\n",
    "\n\n\n",
    "line\n\n  indented\n",
    "windows\r\nline\r\n\r\nends\r",
    "\t",
    "\tif x:\t\treturn\t",
    " \n \t \r\n  x",
    "no\u00a0break\u2003em\u3000ideographic\u200bzero\u2028line\u0085next\u180emongol",
    "\u000b\u000c\u001c\u001d\u001e\u001f",
    "\x00\x01\x7f",
    "Hello, world!",
    "I'm, you're, he'd, they'll, we've, it's, don't",
    "I'M, YOU'RE, HE'D, THEY'LL, WE'VE, IT'S, DON'T",
    "'s't're've'm'll'd '' ' 'so 'tis o'er",
    "it’s, don’t (typographic)",
    "0",
    "1234567890",
    "a1b22c333 4d 5e6",
    "3.14159, 1e-10, 0xDEADBEEF, 1,000,000, -42, +7%",
    "v1.2.3-rc4 2024-12-31T23:59:59Z IPv6 ::1",
    " 7 8  9   10",
    "½ ² ³ ⅷ Ⅻ ① ٣٤٥ ४५६ 五 ㊿ 𝟘𝟙",
    "x²+y₁=10⁻³",
    "café naïve Ünïcödé ÅÄÖ åäö ß ﬁ",
    "Привет, мир! Ёжик",
    "Γειά σου Κόσμε",
    "你好，世界！東京タワーは333メートルです。",
    "안녕하세요 세계",
    "ภาษาไทยไม่มีช่องว่าง",
    "हिन्दी में नमस्ते क्षत्रिय",
    "שלום עולם (2024) abc",
    "مرحبا بالعالم ١٢٣ abc \u200fRTL\u200e",
    "😀😃 👍🏽 ❤️",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👩🏾‍💻 🇩🇪🇫🇷 1️⃣",
    "e\u0301 a\u0308\u0323 \u0301 \u0301\u0302\u0303",
    "\u0301",
    "Z̸̢̛͔̪a̷̰͐l̶̰̇g̵̹͝o̸̜͗",
    "\ufeffBOM \ufffd replacement \ufffe\uffff",
    "\U0001f9d1\U00020000\U0010ffff\U000e0041\U000f0000\U00040000",
    "\u0080\u07ff\u0800\ud7ff\ue000\U00010000",
    "ı İ ſ K Å",
    "def f(x: int) -> int:\n    \"\"\"Doc.\"\"\"\n    return x ** 2 if x > 10 else -x  # done\n",
    "fn main() {\n\tprintln!(\"{:?}\", vec![1u8, 2, 0xff]);\n}\n",
    "for (int i=0;i<100;++i){a[i]+=b[i]<<2;}//x\n#include <stdio.h>",
    "SELECT * FROM t WHERE a='b' AND c<>3;\n{\"k\": [1, null, true]}",
    "<html><body class=\"x\">&amp;&#39;</body></html>",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt",
    "!!!???...,,,;;; --- === *** ///\\\\\\ ```~~~",
    "a" * 50,
    "-" * 80,
    " " * 40 + "x",
    "\n" * 20 + "x",
    "supercalifragilisticexpialidocious antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft",
    "mixedCASE snake_case CamelCase SCREAMING_CASE kebab-case",
    "Ġ Ċ ĉ Ġthe âĢĻ",
    SPECIAL,
    "a<|im_end|>b",
    " <|endoftext|> <|endoftext|><|im_start|>",
    "<|im_start|<|im_end|>|>",
    "<|im_end|",
    "<repo_name>x<file_sep>y<jupyter_code>1+1<empty_output>",
    "<|IM_END|> <| im_end |>",
    (PARAGRAPH * 4)[:2000],
]


def load(path):
    fields = GGUFReader(path).fields

    def value(key):
        return fields[f"tokenizer.ggml.{key}"].contents()

    assert value("model") == "gpt2" and value("pre") == "smollm"
    return value("tokens"), [tuple(m.split(" ")) for m in value("merges")], value("token_type")


def reference(tokens, merges, controls):
    """The published set-up; None as the controls leaves text that looks like one alone."""
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if controls is not None:
        tokenizer.add_special_tokens([AddedToken(c, normalized=False, special=True) for c in controls])
    assert tokenizer.get_vocab_size() == len(tokens)
    return lambda text: tokenizer.encode(text).ids


def alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


WHITESPACE = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}


def char_class(c):
    if c in WHITESPACE:
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "other")


def gpt2_words(text):
    """GPT-2's pattern, by hand."""
    at = 0
    while at < len(text):
        contraction = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, at)), None)
        if contraction:
            yield contraction
            at += len(contraction)
            continue
        end = at
        if text[at] == " " and at + 1 < len(text) and char_class(text[at + 1]) != "space":
            end += 1
        kind = char_class(text[end])
        while end < len(text) and char_class(text[end]) == kind:
            end += 1
        if kind == "space" and end < len(text) and end - at > 1:
            end -= 1
        yield text[at:end]
        at = end


def smollm_words(text):
    start = 0
    for at, c in enumerate(text):
        if char_class(c) == "number":
            yield from gpt2_words(text[start:at])
            yield c
            start = at + 1
    yield from gpt2_words(text[start:])


def merged(symbols, ranks):
    while len(symbols) > 1:
        pairs = list(zip(symbols, symbols[1:]))
        best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        if pairs[best] not in ranks:
            break
        symbols[best : best + 2] = ["".join(pairs[best])]
    return symbols


def plain(tokens, merges, controls):
    ids = {token: i for i, token in enumerate(tokens)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    spelled = alphabet()

    def encode(text):
        found = [(text.find(c), -len(c), c) for c in controls or [] if c in text]
        if found:
            at, _, control = min(found)
            return encode(text[:at]) + [ids[control]] + encode(text[at + len(control) :])
        symbols = []
        for word in smollm_words(text):
            # Nothing merges across a byte that has no token, and it is left out.
            run = []
            for byte in word.encode():
                if spelled[byte] in ids:
                    run.append(spelled[byte])
                else:
                    symbols += merged(run, ranks)
                    run = []
            symbols += merged(run, ranks)
        return [ids[s] for s in symbols]

    return encode


def main(model, output):
    tokens, merges, kinds = load(model)
    controls = [t for t, kind in zip(tokens, kinds) if kind == CONTROL]
    lacking = [f"{b:02x}" for b, c in alphabet().items() if c not in set(tokens)]
    cases = []
    for text in TEXTS:
        case = {"text": text}
        for name, known in (("ids", None), ("ids_special", controls)):
            ids = reference(tokens, merges, known)(text) if name == "ids" or "<" in text else case["ids"]
            other = plain(tokens, merges, known)(text)
            assert ids == other, (text, name, ids, other)
            if name == "ids" or ids != case["ids"]:
                case[name] = ids
        cases.append(case)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    with open(output, "w", encoding="ascii") as file:
        file.write('{"bytes_without_token":%s,"cases":[\n%s\n]}\n' % (json.dumps(lacking), lines))
    print(f"{len(cases)} texts, {sum(len(c['ids']) for c in cases)} tokens; bytes without a token: {' '.join(lacking)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
