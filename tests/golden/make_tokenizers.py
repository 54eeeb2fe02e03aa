#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Makes tests/golden/tokenizers/: small tokenizer.json files, and what Hugging Face `tokenizers`
says about a list of nasty strings. Made with tokenizers 0.23.3:

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python tests/golden/make_tokenizers.py

texts.json: a list of strings. <name>.json: the tokenizer. <name>.vectors.json: for each text
[ids, ids with special tokens, decoded from the latter, the same without special tokens]; null
where the library itself fails.
"""
import json
import os

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers")

TRAINING = """The sun rises over the hills and the river runs down to the sea. I can see that you're
late, and I'll wait; they've said he'd come, but it isn't so. We're here, I'm there, she's gone.
In 1984 there were 12345 of them, 678 in all, 3.14159 of which 2024-01-31 knew nothing at all.
def main(argc, argv):
    for i in range(100):
        print("hello, world", i)   # a comment
    return 0
int main(void) { return puts("hello") < 0 ? 1 : 0; }
Der Fluß fließt über die Brücke; naïve café, déjà vu, señor, smørrebrød, Ångström,
žluťoučký kůň.
Москва не сразу строилась. Η γρήγορη καφέ αλεπού. שלום עולם. مرحبا بالعالم. こんにちは世界。你好，世界！
안녕하세요 세계. हिन्दी में नमस्ते। สวัสดีชาวโลก. 🙂🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪 the the the and and and of of
of in in in
\tTabs\tand  double   triple    quadruple spaces.\r\nLines end so.\r\n\r\nAnd paragraphs
so.\n\n\n
AAAAAAAA bbbbbbbb ======== -------- ........ //////// \\\\\\\\ ######## !!!!!!!! ????????
aaaa aaaaa abababab abcabcabc the theme theory then there these they thy river rivers riverside
"""

L3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
      r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
Q2 = L3.replace(r"\p{N}{1,3}", r"\p{N}")


def texts():
    spaces = ["\t", "\n", "\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\x1f", " ", "\x85", "\xa0",
              "\u1680", "\u180e", "\u2000", "\u2003", "\u2009", "\u200a", "\u200b", "\u200c",
              "\u200d", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff"]
    out = ["", "a", " ", "  ", "   ", "\n", "\r\n", "\t", "\0", "a\0b", "\x7f", "\x01\x02\x1b[0m"]
    out += TRAINING.split("\n")
    out.append(TRAINING)
    for s in spaces:
        out += [s, "a" + s + "b", "a" + s + s + "b", " " + s + "b", "x" + s, "1" + s + "2"]
    for n in (1, 2, 3, 4, 5, 7, 8, 16, 31, 64):
        out += [" " * n + "x", "x" + " " * n, "x" + " " * n + "y", "\n" * n + "x", "x" + "\n" * n,
                " " * n + "\n", "\r\n" * n, "\t" * n + "if", " \n" * n + " y", "!" * n, "1" * n,
                "a" * n, "é" * n, "e\u0301" * n, "🙂" * n, "▁" * n, "'" * n]
    quotes = ["'s", "'S", "'t", "'T", "'re", "'Re", "'rE", "'RE", "'ve", "'VE", "'m", "'M", "'ll",
              "'LL", "'lL", "'d", "'D", "'\u017f", "\u2019s", "'x", "'sx", "'reX", "''s", "'l"]
    out += ["it" + q for q in quotes] + ["it " + q for q in quotes] + quotes
    out += ["IT'S", "don't", "DON'T", "they'll've", "y'all'd've", "rock'n'roll", "'tis", "O'Reilly"]
    # combining marks, normalization, Hangul, jamo, ligatures, compatibility, singletons
    out += ["e\u0301", "é", "E\u0323\u0302", "\u1ec6", "o\u0302\u0323", "\u0301", "a\u0301\u0301",
            "a\u0323\u0301b", "A\u030a", "\u212b", "\u2126", "K\u212a", "ﬁ ﬃ ﬆ", "½ ² ① Ⅷ ㊿ ٣ ३ 七",
            "\u1100\u1161", "\u1100\u1161\u11a8", "가각", "\uac00\u11a8", "ᄀ각", "한글과 ᄒ",
            "\u0958", "\u0915\u093c", "\u0344", "\u0374", "\u2000e\u0301", "\ufb1d", "\u05d9\u05b4",
            "q\u0307\u0323", "\u1e9b\u0323", "ǆ ǅ Ǆ", "İiıI", "ßẞSS", "ς σ Σ", "\U0001d15e",
            "\U0001d400\U0001d7d8", "\U000e0041", "a\u034f\u0301", "\u0f73\u0f75",
            "\u0cc6\u0cc2\u0cd5"]
    # emoji, flags, tags, variation selectors
    out += ["👩‍👩‍👧‍👦", "👍🏽", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "🇩🇪🇫🇷",
            "❤️", "❤", "1️⃣", "#️⃣*️⃣", "🤷🏾‍♂️", "🙂a🙂", "a🙂b", "🙂 🙂", "⌛⏰", "©®™", "\U0001f9ff"]
    # right to left, scripts
    out += ["שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "مَرْحَبًا", "\u202eabc\u202c",
            "\u200fabc\u200e", "abc שלום 123",
            "हिन्दी में", "नमस्ते दुनिया", "தமிழ்", "ไทย", "ภาษาไทย", "မြန်မာ", "ខ្មែរ", "ܫܠܡܐ",
            "日本語テキスト",
            "ひらがなカタカナ漢字", "中文，标点。", "ｆｕｌｌ　ｗｉｄｔｈ１２３", "𝓶𝓪𝓽𝓱", "𐍈𐌰", "ᏣᎳᎩ", "ⵣⴰ",
            "\u0e33", "ａ\u3000ｂ", "𠜎𠜱𡿺", "\ue000\uf8ff", "\ufffd", "\ufffe\uffff", "\U0010ffff",
            "\ud7ff", "\U00010000"]
    # digits, punctuation, code
    out += ["1", "12", "123", "1234", "12345", "123456", "1234567", "1,234,567.89", "3.14", "-1e10",
            "0x1F", "1st 2nd", "a1b22c333d4444", "٠١٢٣", "१२३", "１２３４", "Ⅳ½", "²³", "v1.2.3-rc4",
            "2024-01-31T12:00:00Z", "+49 (0)30 123-456", "100%", "$5.00", "€5", "a_b_c", "__init__",
            "snake_case_name", "camelCaseName", "HTTPServer", "x=y+z;", "if(a&&b||!c){}",
            "<div a='b'>",
            "\\n\\t", "C:\\path\\file", "/usr/bin", "https://example.org/a?b=c&d=%20#e", "a@b.org",
            "...", "…", "—", "a—b", "a - b", "«a»", "“a”", "‘a’", "`a`", "!?!?", "?!", "(((a)))",
            "[[]]",
            " !", "  !", " !a", "!\n", " !\r\n\r\nx", "!\n\n\n", "a.\n b", "a,b", "a ,b",
            "a\u00adb"]
    # added tokens of the tokenizers below, in and out of place
    tags = ["<|begin|>", "<|end|>", "<s>", "</s>", "<unk>", "<0x41>", "<word>", "<left>", "<right>",
            "<both>", "norm", "<|end|", "<|en", "theme park", "café", "cafe\u0301", "<é>",
            "<e\u0301>"]
    for t in tags:
        out += [t, " " + t, t + " ", "a" + t + "b", "a " + t + " b", t + t, "a  " + t + "  b",
                "\n" + t + "\n",
                "é" + t + "é", "_" + t, t + "1", "." + t + ".", t + " " + t,
                "a\u3000" + t + "\u2003b",
                "a\u0301" + t, t + "\u0301", "\u200d" + t + "\u200d"]
    out += ["<both> <left>  <right>  <both>", "<right> <left>", "<right>  <both>  <left>x",
            "a <both>\n\n<left>b",
            "<s>Hello</s><s> Hello</s>", "<|begin|>system\n\nyou<|end|>\n", "<word><word>",
            "<word> <word>",
            "x<word>", "<word>x", "<word>-x", "norm normal norm", "normnorm", " norm", "▁norm", "▁",
            "▁▁a", "a▁b",
            "Ġ", "ĠaĊ", "Ā", "<0x0A>", "<0xE2><0x96><0x81>", "<0xzz>", "<|begin|><|begin|>",
            "<<|end|>>",
            "ab<|end|>   <|begin|>cd", "<left> ", " <left> <left>", "<right> <right> ",
            "theme parks"]
    # long ones
    out += ["a" * 500, "ab" * 250, "abc" * 200, " a" * 200, "the " * 150, " " * 300,
            " " * 300 + "x", "\n" * 200,
            " \n" * 100, "1" * 200, "é" * 200, "e\u0301" * 200, "🙂" * 100, "-" * 300, "the" * 150,
            "AbC" * 100,
            "\u0301" * 100, "x" + "\u0301" * 50 + "\u0323" * 50, "aaaab" * 80, "'s" * 100,
            "<s>" * 60, "▁a" * 90]
    return out


def train(tok, size, alphabet=(), special=()):
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet),
                                  show_progress=False,
                                  special_tokens=list(special))
    tok.train_from_iterator(TRAINING.split("\n") + [TRAINING], trainer)


def train_ascii(tok):
    """So that many characters are unknown. (limit_alphabet would choose others each time.)"""
    text = "".join(c for c in TRAINING if c < "\x7f")
    tok.train_from_iterator([text], trainers.BpeTrainer(vocab_size=260, show_progress=False,
                                                        special_tokens=["<unk>"]))


BYTES = pre_tokenizers.ByteLevel.alphabet()
TEMPLATE = dict(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B")


def llama3():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(L3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, 520, BYTES)
    tok.add_special_tokens(["<|begin|>", "<|end|>"])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(special_tokens=[("<|begin|>", tok.token_to_id("<|begin|>"))],
                                      **TEMPLATE)])
    return tok


def qwen2():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(Q2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tok, 480, BYTES)
    tok.add_special_tokens(["<|begin|>", AddedToken("<|end|>", normalized=False, special=True)])
    tok.add_tokens([AddedToken("<word>", single_word=True), AddedToken("<left>", lstrip=True),
                    AddedToken("<right>", rstrip=True), AddedToken("<both>", lstrip=True,
                                                                   rstrip=True),
                    AddedToken("norm", normalized=True, single_word=True),
                    AddedToken("theme park", normalized=False), AddedToken("cafe\u0301",
                                                                           normalized=True),
                    AddedToken("<e\u0301>", normalized=False)])
    return tok


def gpt2():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.decoder = decoders.ByteLevel()
    train(tok, 450, BYTES, ["<|end|>"])
    tok.add_tokens([AddedToken("<both>", lstrip=True, rstrip=True, normalized=False,
                               single_word=True)])
    return tok


FALLBACK = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
TO_SPACE = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0)]


def only_markers(tok):
    """Only <unk>, <s>, </s> stay added tokens; the byte tokens belong to the model."""
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(spec))


def bos(tok):
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A <s> $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tok


def llama2():
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(TO_SPACE)
    # trained on words, so that merges stay short; used without a pre-tokenizer, as Llama 2 is
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    train(tok, 259 + 330, (), FALLBACK)
    tok.pre_tokenizer = None
    tok = only_markers(tok)
    tok.add_tokens([AddedToken("norm", normalized=True), AddedToken("<word>", normalized=False,
                                                                    single_word=True)])
    return bos(tok)


def mistral():
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence(TO_SPACE)
    train(tok, 259 + 330, (), FALLBACK)
    return bos(only_markers(tok))


def wide():
    """Merges that go across spaces."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.decoder = decoders.Sequence(TO_SPACE[:3])
    train(tok, 259 + 330, (), FALLBACK)
    return only_markers(tok)


def metaspace():
    """No byte fallback: unknown characters are <unk>, one each."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(),
                                                 pre_tokenizers.Digits(True)])
    tok.decoder = decoders.Metaspace()
    train_ascii(tok)
    return tok


def fused():
    """fuse_unk without byte fallback, scheme "never", contiguous digits, no decoder."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "),
                                           normalizers.NFC()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(False),
                                                 pre_tokenizers.Metaspace(prepend_scheme="never")])
    train_ascii(tok)
    return tok


def splits():
    """Every behaviour of Split, inverted, literal; \\w, \\b, \\d; look-behind; `$` at line ends."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[\r\n]+$"), "merged_with_previous"),
        pre_tokenizers.Split(" ", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[,;]"), "removed"),
        pre_tokenizers.Split(Regex(r"\w+"), "contiguous", invert=True),
        pre_tokenizers.Split(Regex(r"\b\d{,2}(?<=[\d])"), "isolated"),
        pre_tokenizers.Split(Regex(r"(?<!th)e\S*"), "merged_with_next", invert=True),
        pre_tokenizers.Split(Regex(r"[^\S\n]"), "merged_with_previous", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    tok.decoder = decoders.Sequence([decoders.Replace(Regex("[aeiou]+"), "*"), decoders.ByteLevel(),
                                     decoders.Strip(" ", 2, 0), decoders.Strip(".", 0, 2)])
    train(tok, 420, BYTES)
    return tok


def decode(tok, ids, skip):
    """None where Hugging Face's Strip panics: it takes more from the end than there is."""
    try:
        return tok.decode(ids, skip_special_tokens=skip)
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        return None


def write(path, value):
    with open(os.path.join(OUT, path), "w", encoding="utf-8") as f:
        f.write(value)


def main():
    os.makedirs(OUT, exist_ok=True)
    all_texts = list(dict.fromkeys(texts()))
    write("texts.json", json.dumps({"texts": all_texts}, indent=0) + "\n")
    for make in (llama3, qwen2, gpt2, llama2, mistral, wide, metaspace, fused, splits):
        name, tok = make.__name__, make()
        spec = json.loads(tok.to_str())
        if name in ("gpt2", "llama2"):  # the older spelling
            spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
        tok = Tokenizer.from_str(json.dumps(spec))
        write(name + ".json", json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n")
        rows = []
        for text in all_texts:
            plain = tok.encode(text, add_special_tokens=False).ids
            special = tok.encode(text).ids
            decoded = [decode(tok, special, skip) for skip in (False, True)]
            rows.append([plain, special] + decoded)
        body = ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows)
        write(name + ".vectors.json", '{"rows":[\n' + body + "\n]}\n")
        print(name, tok.get_vocab_size(), len(rows))


main()
