"""What is allowed instead of a bad value, in the reader's language.

The estimator, the launcher and the job's spec know no Django: what they allow comes as an English text. Those texts
stand here as literals, so that translations can be collected; a test keeps them equal to the sources'.
"""

import re
from typing import Final

from django.utils.translation import gettext, gettext_noop

# A text is put in words by the first that matches it: one that ends with a list of anything comes last.
ALLOWED_TEXTS: Final = (
    # numbers
    gettext_noop("an integer from %(low)s to %(high)s"),
    gettext_noop("a number from %(low)s to %(high)s"),
    gettext_noop("a whole number from %(low)s to %(high)s"),
    gettext_noop("true or false"),
    gettext_noop("at least one count"),
    gettext_noop("1 to %(count)s counts"),
    gettext_noop("a list of at most %(count)s entries"),
    # texts and names
    gettext_noop("text"),
    gettext_noop("printable text of 1 to %(high)s characters"),
    gettext_noop("text of at most %(high)s characters"),
    gettext_noop("text on one line without control characters"),
    gettext_noop("text that can be encoded as UTF-8"),
    gettext_noop("text without NUL bytes"),
    gettext_noop("8 to 64 of a-z, 0-9 and '-'"),
    gettext_noop("1 to 128 of A-Z, a-z, 0-9 and '_.+-', starting with a letter or digit"),
    gettext_noop("letters, digits and '_.-', starting with a letter or digit"),
    gettext_noop("letters, digits and '_.-'"),
    gettext_noop("a partition's name"),
    # objects
    gettext_noop("an object (mapping) with text keys"),
    gettext_noop("no such field; known: %(names)s"),
    gettext_noop("required; missing: %(names)s"),
    gettext_noop("an Architecture"),
    gettext_noop("an Accelerator"),
    gettext_noop("exactly one of preset, config, architecture"),
    gettext_noop("either tokens or tokens_per_parameter"),
    # models
    gettext_noop("required for model_type %(model_type)s"),
    gettext_noop("required; one of %(names)s"),
    gettext_noop("a divisor of num_attention_heads (%(heads)s)"),
    gettext_noop("a divisor of hidden_size (%(hidden_size)s)"),
    gettext_noop("hidden_size (%(hidden_size)s): no projected embedding"),
    gettext_noop("true (MPT with biases is not supported yet)"),
    gettext_noop("false (MPT with query and key norms is not supported yet)"),
    gettext_noop("false (a sparse ERNIE with biases is not supported yet)"),
    gettext_noop("0; learned sink tokens and multi-token prediction are not supported for Pangu"),
    gettext_noop('a list of pairs such as [["global", "local"], 12]'),
    gettext_noop("a pattern for %(layers)s layers"),
    gettext_noop("a list of class names"),
    gettext_noop("an activation such as relu or gated-gelu"),
    gettext_noop("nothing: %(model_type)s is dense; name the sparse model_type"),
    gettext_noop("nothing: %(model_type)s has no multi-head latent attention"),
    gettext_noop("nothing: num_moe_layers is 0, so there are no experts"),
    gettext_noop("at least 1, as num_moe_layers is %(layers)s"),
    gettext_noop("at most num_experts (%(experts)s)"),
    gettext_noop("at most num_hidden_layers (%(layers)s)"),
    gettext_noop("false without a shared expert"),
    gettext_noop("0 in an encoder-decoder; mixtures of experts there are not supported"),
    gettext_noop("0 without a sliding_window"),
    gettext_noop("0 without latent attention (kv_lora_rank is 0)"),
    gettext_noop("from 1 to head_dim - 1 (%(high)s) with latent attention"),
    gettext_noop("num_attention_heads (%(heads)s) with latent attention"),
    gettext_noop("at most %(count)s parameters"),
    gettext_noop("at most %(count)s: the model's learned positions"),
    gettext_noop("a precision of %(accelerator)s: %(names)s"),
    gettext_noop("false with precision %(precision)s"),
    # devices and plans
    gettext_noop("exactly one type of accelerator in a job"),
    gettext_noop("a code or name of an accelerator, such as %(names)s"),
    gettext_noop("a code or name of an accelerator; close to it: %(names)s"),
    gettext_noop("whole nodes of %(count)s devices"),
    gettext_noop("within a node one of %(counts)s"),
    gettext_noop("at most %(count)s devices"),
    gettext_noop("a count over which batch, heads and layers divide (found: %(reasons)s)"),
    gettext_noop("sizes whose product is the %(count)s accelerators asked for"),
    gettext_noop("a plan whose tensor × pipeline × data × context sizes make the %(count)s devices asked for"),
    gettext_noop("a signal, so that a segment can write its checkpoint"),
    gettext_noop("1 without pipeline parallelism"),
    gettext_noop("false without tensor parallelism"),
    gettext_noop("a divisor or a multiple of num_key_value_heads (%(heads)s)"),
    gettext_noop("a divisor of the devices in a node (%(count)s)"),
    gettext_noop("a divisor of the devices in a node (%(count)s) or of those that fast links join (%(joined)s)"),
    gettext_noop("0 or a divisor of data x context ranks (%(count)s)"),
    gettext_noop("a divisor of data x context x tensor ranks (%(count)s)"),
    gettext_noop("a divisor of data x context x tensor ranks"),
    gettext_noop("a divisor of num_experts (%(experts)s)"),
    gettext_noop("1 for a model without experts"),
    gettext_noop("1 with the framework %(framework)s"),
    gettext_noop("true where expert and tensor parallelism meet"),
    gettext_noop("1f1b with virtual stages"),
    gettext_noop("none or optimizer below ZeRO stage 3"),
    gettext_noop("none: device and host share their memory"),
    gettext_noop(
        "sequence_length (%(length)s) divisible by context_parallel, and with sequence parallelism by "
        "tensor_parallel, too"
    ),
    gettext_noop(
        "pipeline_parallel x virtual_stages dividing the layers (%(layers)s), or the layers + 2 (embedding and head "
        "counted as one layer each); without virtual stages also equal inner stages that leave a layer each to the "
        "first and the last"
    ),
    gettext_noop("1, or a number of micro-batches that is a multiple of pipeline_parallel"),
    gettext_noop("data_parallel x micro_batch_size dividing global_batch_size (%(batch)s)"),
    gettext_noop("0 or 1 with pipeline parallelism"),
    # what runs
    gettext_noop("a script that is not empty"),
    gettext_noop("at most %(count)s bytes"),
    gettext_noop("a first line that starts with '#!', such as #!/bin/bash"),
    gettext_noop("names of letters, digits and '_', not starting with a digit"),
    gettext_noop("a name the portal or the scheduler doesn't set itself"),
    gettext_noop("a name that bash doesn't use itself"),
    gettext_noop("a mapping of names to values"),
    gettext_noop("a tuple of 1 to %(count)s words"),
    gettext_noop("a program's name or path, not an option"),
    gettext_noop("the name of a Python module after -m"),
    gettext_noop("a script for torchrun to start, or -m and a module"),
    gettext_noop("the script itself: the portal writes torchrun before it"),
    gettext_noop("one of %(names)s; put the object under text_config here"),
    gettext_noop("one of %(names)s; or the shape itself as an architecture, for which this config lacks %(missing)s"),
    gettext_noop("one of %(names)s; or the shape itself as an architecture, for which this config has every size"),
    gettext_noop("one of %(names)s with the framework %(framework)s"),
    gettext_noop("one of %(names)s"),
)

_PLACEHOLDER: Final = re.compile(r"%\\?\((\w+)\\?\)s")
_PATTERNS: Final = tuple(
    (re.compile(_PLACEHOLDER.sub(r"(?P<\1>.+?)", re.escape(text)), re.DOTALL), text) for text in ALLOWED_TEXTS
)


def describe_allowed(text: str) -> str:
    """An `allowed` text of the estimator, the launcher or a spec in the reader's language.

    A text that isn't listed (names alone, or one that is translated already) is returned as it is.
    """
    for pattern, template in _PATTERNS:
        match = pattern.fullmatch(text)
        if match:
            return gettext(template) % match.groupdict() if match.groupdict() else gettext(template)
    return text
