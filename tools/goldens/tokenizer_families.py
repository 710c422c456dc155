#!/usr/bin/env python3
"""Writes tests/goldens/tokenizers: small tokenizers of the families qwen2, glm4, llama3, tekken and mistral, and what they do to hard strings.

    pip install gguf==0.19.0 tokenizers==0.23.3 transformers==5.24.0 jinja2==3.1.6
    tools/goldens/tokenizer_families.py demo/britannica-1911-shakespeare.txt tests/goldens/tokenizers   # or some: mistral tekken

For each family a byte-level BPE is trained on the text, with the normaliser, pattern and options of the family's
published tokenizer.json and special tokens like its own. `tokenizer.json`, `tokenizer_config.json` and
`generation_config.json` are a model folder; `tokenizer.gguf` holds the same vocabulary as llama.cpp's converter
writes it. `goldens.json` has the ids that Hugging Face's tokenizers gives each text: `ids` and, with control tokens
recognised, `ids_special` for the folder, and the same under `gguf` where llama.cpp's rule for the family (no
normaliser, contractions of ASCII letters) gives others, and `decoded` where that is not the text itself.

`mistral` is SentencePiece's kind: characters merge, spaces are marked, and characters without a token become bytes. Its folder
marks a space before a text alone, as Mistral 7B v0.3's; llama.cpp, and the folders of v0.1 and v0.2, before every part between
control tokens. Its GGUF file has scores and no merges.

`begin.json` has what whole texts begin with: `raw`, the ids of texts with what the post-processor puts in front, on
which tokenizers and transformers agree, and `chat`, the ids that transformers give a conversation; under `gguf` both where
llama.cpp's rule gives others.
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
from transformers.convert_slow_tokenizer import generate_merges

TOKENS = 1500

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ASCII_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SIGN = r"[^\r\n\p{L}\p{N}]?"
TEKKEN_REST = r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = f"{SIGN}{UPPER}*{LOWER}+|{SIGN}{UPPER}+{LOWER}*{TEKKEN_REST}"
# llama.cpp: letters but for small ones of ASCII, letters but for its capitals.
NOT_SMALL, NOT_CAPITAL = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
TEKKEN_GGUF = f"{SIGN}{NOT_SMALL}*{NOT_CAPITAL}+|{SIGN}{NOT_SMALL}+{NOT_CAPITAL}*{TEKKEN_REST}"

INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}{% else %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% endfor %}"
)

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
    # Mistral Nemo's.
    "tekken": {
        "pattern": TEKKEN,
        "gguf_pattern": TEKKEN_GGUF,
        "nfc": False,
        "whole_words": True,
        "control": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        "user_defined": [],
        "bos": "<s>",
        "config": {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"},
        "eos": ["</s>"],
        "chat": INSTRUCTIONS,
    },
    "mistral": {
        "pieces": True,
        "control": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        "user_defined": [],
        "bos": "<s>",
        "config": {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"},
        "eos": ["</s>"],
        "chat": INSTRUCTIONS,
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

# Words of capitals and small letters, marks of spaces, and bytes that tokens name.
MARKED = [
    "iPhone McDonald's HTTPServer eBay XMLHttpRequest ÉCOLE École ǅungla AbCdEFgh",
    "a/b// \n/x /\n\n//\r\n",
    "<s>[INST] Hi[/INST] Hello.</s>[INST]And?[/INST]</s></s> x",
    " [INST]  two  [/INST]\n<s> <unk> <UNK>",
    "\u2581 a\u2581b \u2581\u2581",
    "<0x0A> <0xE8><0xAA><0x9E> <0x>",
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
    pattern = family.get("gguf_pattern" if for_gguf else "pattern")
    pattern = pattern or contractions + REST.replace("DIGITS", family["digits"])
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def trained_pieces(family, text):
    """Control tokens, bytes, what merges make and single characters, with SentencePiece's scores: the first is the best."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    first = [*family["control"], *[f"<0x{byte:02X}>" for byte in range(256)]]
    trainer = trainers.BpeTrainer(vocab_size=TOKENS - len(first), limit_alphabet=90, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    learnt = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    pieces = [token for token, _ in learnt if len(token) > 1] + [token for token, _ in learnt if len(token) == 1]
    vocab = {token: id for id, token in enumerate(first + pieces)}
    scores = {token: -float(rank) for rank, token in enumerate(pieces)}
    return vocab, generate_merges(vocab, scores)


def built_pieces(family, vocab, merges, for_gguf):
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if for_gguf:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def trained(family, text):
    if "pieces" in family:
        return trained_pieces(family, text)
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
    if "pieces" in family:
        tokenizer = built_pieces(family, vocab, merges, for_gguf)
    else:
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
        before = [] if "pieces" in family else [processors.ByteLevel(trim_offsets=True)]
        tokenizer.post_processor = processors.Sequence([*before, frame])
    return tokenizer


def ids(tokenizer, text):
    tokenizer.encode_special_tokens = True
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    special = tokenizer.encode(text, add_special_tokens=False).ids
    return {"ids": plain} if special == plain else {"ids": plain, "ids_special": special}


def goldens(family, vocab, merges):
    folder, llama = built(family, vocab, merges), built(family, vocab, merges, for_gguf=True)
    more = MARKED if family.get("bos") == "<s>" else []
    for text in dict.fromkeys(TEXTS + more):
        case = {"text": text} | ids(folder, text)
        if (other := ids(llama, text)) != ids(folder, text):
            case["gguf"] = other
        if (decoded := folder.decode(case["ids"], skip_special_tokens=False)) != text:
            case["decoded"] = decoded
        yield case


def begin(folder, family, llama):
    """What whole texts begin with, on which all agree."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = AutoTokenizer.from_pretrained(folder, eos_token=family["eos"][0])
    raw = [{"text": text, "ids": tokenizer.encode(text).ids} for text in ["", "When was he born?", " 1564\n"]]
    assert all(reference(case["text"])["input_ids"] == case["ids"] for case in raw)
    adds_bos = gguf.SpecialVocab(folder).add_special_token.get("bos", False)
    assert adds_bos == ("bos" in family)
    ids = reference.apply_chat_template(TALK, chat_template=family["chat"], return_dict=False)
    framed = reference.apply_chat_template(TALK, chat_template=family["chat"], tokenize=False)
    chat = {"template": family["chat"], "messages": TALK, "ids": ids}
    found = {"raw": raw, "chat": chat}
    other = {"raw": [{"text": case["text"], "ids": llama.encode(case["text"]).ids} for case in raw],
             "chat": chat | {"ids": llama.encode(framed, add_special_tokens=False).ids}}
    return found if other == found else found | {"gguf": other}


def write_gguf(path, name, family, tokenizer, merges):
    if "pieces" in family:
        return write_pieces(path, family, tokenizer)
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


def write_pieces(path, family, tokenizer):
    """As llama.cpp converts SentencePiece's tokens: with scores, and a byte's kind of its own."""
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    first = len(family["control"]) + 256
    kinds = [gguf.TokenType.CONTROL] * (first - 256) + [gguf.TokenType.BYTE] * 256
    kinds[0] = gguf.TokenType.UNKNOWN
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * first + [-float(rank) for rank in range(len(tokens) - first)])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - first))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(tokenizer.token_to_id(family["bos"]))
    writer.add_eos_token_id(tokenizer.token_to_id(family["eos"][0]))
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main(text, output, *names):
    text = Path(text).read_text(encoding="utf-8")[:60_000]
    for name, family in FAMILIES.items():
        if names and name not in names:
            continue
        folder = Path(output) / name
        folder.mkdir(parents=True, exist_ok=True)
        vocab, merges = trained(family, text)
        tokenizer = built(family, vocab, merges)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        eos = [tokenizer.token_to_id(token) for token in family["eos"]]
        for file, content in (("tokenizer_config", family["config"]), ("generation_config", {"eos_token_id": eos})):
            (folder / f"{file}.json").write_text(json.dumps(content) + "\n", encoding="ascii")
        write_gguf(folder / "tokenizer.gguf", name, family, tokenizer, merges)
        (folder / "begin.json").write_text(json.dumps(begin(folder, family, built(family, vocab, merges, True))) + "\n", encoding="ascii")
        cases = list(goldens(family, vocab, merges))
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (folder / "goldens.json").write_text(f"[\n{lines}\n]\n", encoding="ascii")
        other = sum("gguf" in case for case in cases)
        print(f"{name}: {tokenizer.get_vocab_size()} tokens, {len(cases)} texts, {other} with other ids in GGUF")


if __name__ == "__main__":
    main(*sys.argv[1:])
