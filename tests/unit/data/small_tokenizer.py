"""A tokenizer made in a moment, and chat templates of the kinds that models come with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|end_header|>", "<|eot|>"]
SENTENCES = [
    "The model reads the question and writes the answer.",
    "user assistant system tool\n\n\nReturn the number of items, or None.",
    "  indented lines\n    def f(x):\n        return x + 1\n",
    "Sum of numbers 0 1 2 3 4 5 6 7 8 9",
] * 4

_IM_PROMPT = r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

# SmolLM2's: a system prompt is added where the conversation has none.
CHATML = (
    r"{% for message in messages %}"
    r"{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    r"{% endfor %}" + _IM_PROMPT
)

# Llama 3's: a first token, headers, contents trimmed, no line break after a turn.
LLAMA = (
    r"{{ '<|bos|>' }}{% for message in messages %}"
    r"{{ '<|header|>' + message['role'] + '<|end_header|>\n\n' + message['content'] | trim + '<|eot|>' }}"
    r"{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}"
)

# Marks say what the assistant writes; this one leaves the end-of-turn token out of them.
MARKED = (
    r"{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    r"{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    r"{% else %}{{ message['content'] }}{% endif %}"
    r"{{ '<|im_end|>\n' }}{% endfor %}" + _IM_PROMPT
)

# Qwen 3's: reasoning is cut from the turns before the last question, and the last turns get an empty one.
REASONING = (
    r"{% set ns = namespace(last=0) %}"
    r"{% for message in messages %}{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    r"{% endfor %}"
    r"{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    r"{% if message['role'] == 'assistant' %}{% set parts = message['content'].split('</think>') %}"
    r"{% set thought = parts[0].replace('<think>', '') if parts | length > 1 else '' %}"
    r"{% if loop.index0 > ns.last %}{{ '<think>\n' + thought + '\n</think>\n' }}{% endif %}{{ parts[-1] }}"
    r"{% else %}{{ message['content'] }}{% endif %}"
    r"{{ '<|im_end|>\n' }}{% endfor %}" + _IM_PROMPT
)

# DeepSeek R1's: the prompt opens the reasoning, which rendered turns do not show.
OPENED = (
    r"{% for message in messages %}"
    r"{{ '<|header|>' + message['role'] + '<|end_header|>' + message['content'] + '<|eot|>' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|><think>\n' }}{% endif %}"
)

# A base model's: no special tokens, a line break ends a turn.
PLAIN = (
    r"{% for message in messages %}{{ message['role'] + ':\n' + message['content'] + '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "marked": MARKED,
    "reasoning": REASONING,
    "opened": OPENED,
    "plain": PLAIN,
}


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return str(tokenizer.to_str())


def small_tokenizer(template: str | None = CHATML, *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 400 tokens.

    Args:
        template: Its chat template.
        adds_bos: Whether it puts its first token before a text, as Llama's does.
    """
    tokenizer = Tokenizer.from_str(_trained())
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.decoder = decoders.ByteLevel()
    bos = ("<|bos|>", tokenizer.token_to_id("<|bos|>"))
    first = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[bos])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), *([first] if adds_bos else [])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    fast.chat_template = template
    return fast


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """A tokenizer's folder, as a base model has it."""
    tokenizer.save_pretrained(folder)
    return folder
