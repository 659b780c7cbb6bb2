"""A tokenizer of an encoder, made in a moment: pieces of words between a first and a last token, as BERT's."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.unit.data.small_tokenizer import SENTENCES

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@cache
def _made() -> str:
    """Every letter by itself and within a word, and some words; a trainer would draw other pieces in each process."""
    text = " ".join(SENTENCES).lower()
    letters, words = (
        sorted(set(text) - set(" \n")),
        ["the", "model", "reads", "and", "writes", "answer", "question", "number"],
    )
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words, "##s", "##ing"]
    vocab = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.decoder = decoders.WordPiece()
    return str(tokenizer.to_str())


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of letters and a few words, without an end of text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_made()),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
