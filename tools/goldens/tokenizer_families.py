#!/usr/bin/env python3
"""Writes tests/goldens/tokenizers: small tokenizers of the families qwen2, glm4 and llama3, and what they do to hard strings.

    pip install gguf==0.19.0 tokenizers==0.23.3 transformers==5.24.0 jinja2==3.1.6
    tools/goldens/tokenizer_families.py demo/britannica-1911-shakespeare.txt tests/goldens/tokenizers

For each family a byte-level BPE is trained on the text, with the normaliser, pattern and options of the family's
published tokenizer.json and special tokens like its own. `tokenizer.json`, `tokenizer_config.json` and
`generation_config.json` are a model folder; `tokenizer.gguf` holds the same vocabulary as llama.cpp's converter
writes it. `goldens.json` has the ids that Hugging Face's tokenizers gives each text: `ids` and, with control tokens
recognised, `ids_special` for the folder, and the same under `gguf` where llama.cpp's rule for the family (no
normaliser, contractions of ASCII letters) gives others, and `decoded` where that is not the text itself.

`begin.json` has what whole texts begin with: `raw`, the ids of texts with what the post-processor puts in front, on
which tokenizers and transformers agree, and `chat`, the ids that transformers give a conversation.
"""

import json
import sys
from pathlib import Path

import gguf
from tokenizer import TEXTS as COMMON
from tokenizers import (
    AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
)
from transformers import AutoTokenizer

TOKENS = 1500

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ASCII_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

FAMILIES = {
    "qwen2": {
        "digits": "",
        "nfc": True,
        "whole_words": False,
        "control": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "user_defined": ["<think>", "</think>"],
        "config": {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>"},
        "eos": ["<|im_end|>", "<|endoftext|>"],
        "chat": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}",
    },
    "glm4": {
        "digits": "{1,3}",
        "nfc": False,
        "whole_words": True,
        "control": ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
        "user_defined": ["<think>", "</think>"],
        "config": {"eos_token": {"content": "<|endoftext|>", "special": True}},
        "eos": ["<|endoftext|>", "<|user|>", "<|observation|>"],
        "chat": "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}<|assistant|>\n",
    },
    "llama3": {
        "gguf_pre": "llama-bpe",
        "digits": "{1,3}",
        "nfc": False,
        "whole_words": True,
        "control": [
            "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
        ],
        "user_defined": [],
        "bos": "<|begin_of_text|>",
        "config": {
            "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast"
        },
        "eos": ["<|eot_id|>"],
        "chat": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
        "m.content | trim + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    },
}

TALK = [
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "When was he born?"},
    {"role": "assistant", "content": "In 1564."},
    {"role": "user", "content": " And where? "},
]

# Whole words that no merges lead to: only a family that takes whole words for tokens finds them.
UNMERGED = ["Ġzyzzyva", "Ñĩrgh"]

SPECIAL = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nHello.<|im_end|>",
    "[gMASK]<sop><|system|>Be brief.<|user|>Hi<|assistant|></think>Hello.<|observation|>",
    "a<|endoftext|>b <|user|> c[gMASK]",
    "<|im_start|<|im_end|>|> <|user<|user|>",
    "<think>e\u0301</think>e\u0301<|im_end|>e\u0301<|user|>e\u0301",
    "<THINK> < think> <|IM_END|> <|user |> [gmask]",
]

TEXTS = COMMON + SPECIAL + [
    *["".join(str(n % 10) for n in range(1, length + 1)) for length in range(1, 13)],
    *[f"x{'7' * length} {'8' * length}y" for length in range(1, 8)],
    "٣٤٥٦٧ ४५६७ ①②③④ 𝟘𝟙𝟚𝟛 ⅷⅨ ½¾ x²³ 五六七八",
    "i'm I'M you'RE He'D they'LL we'Ve it'S don'T o'clock 'tis 'Sblood",
    "it'\u017f I'\u017fx '\u212aelvin",
    "'s 'S 'st '' '''s ''ll",
    " zyzzyva zyzzyva zyzzyvas",
    "чrgh xчrgh чrghs",
    "\r\n\r\n \r\n\t\r\n  x\r\ry\n\r",
    "a \n b\n \n  c \t\n\td\u00a0\n\u3000e\u2028f\u2029g\u0085h",
    "x.\n\n\ny;\r\nz:\n w!\n\t",
    "    def f():\n        return  1\n\n\n\n",
    " " * 1000,
    "\t" * 99 + "x" + " \t" * 50 + "\n" * 77,
    "ab" * 700,
    "!?" * 400,
    "0" * 500,
    "語" * 300,
    "Å Å Å\u0301 A\u030a a\u0323\u0307 a\u0307\u0323 \u1e9b\u0323",
    "e\u0301 \u00e9 n\u0303 \u00f1 \u1112\u1161\u11ab \ud55c \u2126 \u03a9 \u212b ﬁ ²",
    "\u0915\u093c \u0958 \u0f71\u0f72 \u0344 \u2adc \U0001d15e",
    "a\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309 \u0301\u0301\u0301",
    "👍🏻👍🏼👍🏽👍🏾👍🏿 👩‍❤️‍💋‍👨 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ☺️☺︎ #️⃣*️⃣",
    "\u202eabc\u202c \u2066שלום\u2069 ‏مرحبا‎ ﷺ",
    "\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\ufffd\ufffd \ue000\uf8ff\U000f0000 \ufdd0\ufffe\uffff\U0010ffff",
    "吾輩は猫である。名前はまだ無い。1905年。“引用”、《书名》——……",
    "¡¿ «guillemets» „quotes“ ‘single’ — – ‑ ‐ … ‰ № ™ € ₿",
    "\u00ad\u200b\u200c\u200d\u2060\ufeff",
]


def steps(family, for_gguf):
    contractions = ASCII_CONTRACTIONS if for_gguf else CONTRACTIONS
    pattern = contractions + REST.replace("DIGITS", family["digits"])
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def trained(family, text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = steps(family, False)
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"]
    for token in UNMERGED:
        vocab[token] = len(vocab)
    return vocab, [tuple(merge) for merge in model["merges"]]


def built(family, vocab, merges, for_gguf=False):
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=family["whole_words"]))
    if family["nfc"] and not for_gguf:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = steps(family, for_gguf)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in family["control"]])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in family["user_defined"]])
    if bos := family.get("bos"):
        frame = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B:1"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), frame])
    return tokenizer


def ids(tokenizer, text):
    tokenizer.encode_special_tokens = True
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    special = tokenizer.encode(text, add_special_tokens=False).ids
    return {"ids": plain} if special == plain else {"ids": plain, "ids_special": special}


def goldens(family, vocab, merges):
    folder, llama = built(family, vocab, merges), built(family, vocab, merges, for_gguf=True)
    for text in dict.fromkeys(TEXTS):
        case = {"text": text} | ids(folder, text)
        if (other := ids(llama, text)) != ids(folder, text):
            case["gguf"] = other
        if (decoded := folder.decode(case["ids"], skip_special_tokens=False)) != text:
            case["decoded"] = decoded
        yield case


def begin(folder, family):
    """What whole texts begin with, on which all agree."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = AutoTokenizer.from_pretrained(folder, eos_token=family["eos"][0])
    raw = [{"text": text, "ids": tokenizer.encode(text).ids} for text in ["", "When was he born?", " 1564\n"]]
    assert all(reference(case["text"])["input_ids"] == case["ids"] for case in raw)
    adds_bos = gguf.SpecialVocab(folder).add_special_token.get("bos", False)
    assert adds_bos == ("bos" in family)
    ids = reference.apply_chat_template(TALK, chat_template=family["chat"], return_dict=False)
    return {"raw": raw, "chat": {"template": family["chat"], "messages": TALK, "ids": ids}}


def write_gguf(path, name, family, tokenizer, merges):
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(i) for i in range(size)]
    normal, control, user_defined = (
        gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    )
    kinds = [
        control if token in family["control"] else user_defined if token in family["user_defined"] else normal
        for token in tokens
    ]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family.get("gguf_pre", name))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.token_to_id(family["eos"][0]))
    if bos := family.get("bos"):
        writer.add_bos_token_id(tokenizer.token_to_id(bos))
        writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main(text, output):
    text = Path(text).read_text(encoding="utf-8")[:60_000]
    for name, family in FAMILIES.items():
        folder = Path(output) / name
        folder.mkdir(parents=True, exist_ok=True)
        vocab, merges = trained(family, text)
        tokenizer = built(family, vocab, merges)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        eos = [tokenizer.token_to_id(token) for token in family["eos"]]
        for file, content in (("tokenizer_config", family["config"]), ("generation_config", {"eos_token_id": eos})):
            (folder / f"{file}.json").write_text(json.dumps(content) + "\n", encoding="ascii")
        write_gguf(folder / "tokenizer.gguf", name, family, tokenizer, merges)
        (folder / "begin.json").write_text(json.dumps(begin(folder, family)) + "\n", encoding="ascii")
        cases = list(goldens(family, vocab, merges))
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (folder / "goldens.json").write_text(f"[\n{lines}\n]\n", encoding="ascii")
        other = sum("gguf" in case for case in cases)
        print(f"{name}: {tokenizer.get_vocab_size()} tokens, {len(cases)} texts, {other} with other ids in GGUF")


if __name__ == "__main__":
    main(*sys.argv[1:])
