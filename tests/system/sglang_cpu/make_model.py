"""Make a tiny Llama with random weights, its own tokenizer and a chat template.

Deterministic: the same versions of torch, tokenizers and transformers and the same seed give the
same files. Greedy decoding is deterministic too; tokens that are not ASCII are pushed down, so
that the text can be read. Runs in the virtual environment that ``setup.sh`` makes.

usage: make_model.py OUT_DIR [--ctx N] [--seed N] [--eos BIAS]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
WORDS = """the a an of to and in is it that for on with as was at by be this from or
which one you had not are but his they have were all when we there can more
server request response stream token cache prefix model radix proxy route header
body chunk event data client socket close open read write wait queue batch health
metric count gauge limit retry time out fast slow cold warm load balance upstream
backend daemon python async loop future task cancel abort finish stop length
apple river stone house light water garden window morning evening winter summer
green blue red yellow quick brown fox jumps over lazy dog and then goes home
translate french spanish german hello world thank please where what how why who""".split()  # noqa: SIM905 - as a list it would be a page long
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% elif m['content'] %}{% for p in m['content'] %}"
    "{{ p['text'] if p['type'] == 'text' else '' }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN = 64


def corpus(seed: int) -> list[str]:
    """Sentences of the words above, a little code and a little JSON, to train a tokenizer on."""
    rnd = random.Random(seed)
    text = []
    for _ in range(4000):
        length = rnd.randint(4, 14)
        sentence = " ".join(rnd.choice(WORDS) for _ in range(length))
        text.append(sentence.capitalize() + rnd.choice([".", "?", "!", ",", ":\n"]))
    text += ["def f(n):\n    if n <= 1:\n        return n\n    return f(n-1) + f(n-2)\n"] * 40
    text += ['{"name": "value", "list": [1, 2, 3], "flag": true}'] * 40
    return text


def make_tokenizer(seed: int, ctx: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=ctx,
        clean_up_tokenization_spaces=False,
    )


def set_weights(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, eos: float
) -> None:
    """Random weights; hidden dimension 0 is kept constant and serves as a bias for the head."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(len(tokenizer), HIDDEN, generator=generator)
    embedding[:, 0] = 6.0
    model.model.embed_tokens.weight.copy_(embedding)
    head = torch.randn(len(tokenizer), HIDDEN, generator=generator) * 0.5
    head[:, 0] = 0.0
    vocabulary = tokenizer.get_vocab()
    for token, index in vocabulary.items():
        text = tokenizer.decode([index])
        if token in SPECIAL or not all(32 <= ord(c) < 127 or c == "\n" for c in text):
            head[index, 0] = -12.0  # never
        elif not text.strip():
            head[index, 0] = -2.5  # seldom: JSON grammars would wander in blanks
        elif len(text.strip()) <= 1:
            head[index, 0] = -1.0
    end = vocabulary["<|im_end|>"]
    head[end] *= 0.5
    head[end, 0] = eos  # about one token in a hundred at temperature 1
    model.lm_head.weight.copy_(head)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            part.weight.normal_(0, 0.15, generator=generator)
        for part in (attention.o_proj, mlp.down_proj):
            part.weight.normal_(0, 0.25, generator=generator)
            part.weight[0].zero_()
        for part in (mlp.gate_proj, mlp.up_proj):
            part.weight.normal_(0, 0.2, generator=generator)


def main() -> None:
    """Write tokenizer, configuration and weights to the folder named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--eos", type=float, default=7.6)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = make_tokenizer(args.seed, args.ctx)
    tokenizer.save_pretrained(args.out)
    ids = {
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|bos|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|pad|>"),
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=args.ctx,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        torch_dtype="bfloat16",
        **ids,
    )
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        set_weights(model, tokenizer, args.seed, args.eos)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(args.out, safe_serialization=True)
    parameters = sum(weight.numel() for weight in model.parameters())
    print("vocabulary", len(tokenizer), "parameters", parameters, "->", args.out)


if __name__ == "__main__":
    main()
