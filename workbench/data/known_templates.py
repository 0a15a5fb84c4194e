"""The chat templates that need no tokenizer's: Llama 2's, Zephyr's and ChatML, as Jinja with marks of generation.

`eos_token` is the tokenizer's own, whatever its name. ChatML's marks are single tokens where the vocabulary has them, and
ordinary text of several tokens where it does not.

References
----------
Llama 2: `chat_completion` in https://github.com/meta-llama/llama. Zephyr: the `chat_template` of
TinyLlama/TinyLlama-1.1B-Chat-v1.0. ChatML: https://github.com/openai/openai-python/blob/v0.28.1/chatml.md.
"""

from __future__ import annotations

TEMPLATES = {
    "llama2": """\
{% set ns = namespace(system='') %}
{% for message in messages %}
{% if message.role == 'system' %}
{% set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' %}
{% elif message.role == 'user' %}
{{- bos_token + '[INST] ' + ns.system + message.content + ' [/INST]' -}}
{% set ns.system = '' %}
{% else %}
{% generation %}{{- ' ' + message.content + ' ' + eos_token -}}{% endgeneration %}
{% endif %}
{% endfor %}
""",
    "zephyr": """\
{% for message in messages %}
{{- '<|' + message.role + '|>\\n' -}}
{% if message.role == 'assistant' %}
{% generation %}{{- message.content + eos_token -}}{% endgeneration %}
{{- '\\n' -}}
{% else %}
{{- message.content + eos_token + '\\n' -}}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{- '<|assistant|>\\n' -}}
{% endif %}
""",
    "chatml": """\
{% for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' -}}
{% if message.role == 'assistant' %}
{% generation %}{{- message.content + '<|im_end|>' -}}{% endgeneration %}
{{- '\\n' -}}
{% else %}
{{- message.content + '<|im_end|>\\n' -}}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' -}}
{% endif %}
""",
}
"""By the name that `chat.template` gives them."""
MARKS = {
    "llama2": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "zephyr": ("<|system|>", "<|user|>", "<|assistant|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}
"""What begins or ends a turn in each, beside special tokens."""
