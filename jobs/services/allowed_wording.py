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
    gettext_noop("a list of integers"),
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
    # models
    gettext_noop("required for model_type %(model_type)s"),
    gettext_noop("required; one of %(names)s"),
    gettext_noop("dense models only; mixtures of experts not supported yet"),
    gettext_noop("no multi-head latent attention; it is not supported yet"),
    gettext_noop("a divisor of num_attention_heads (%(heads)s)"),
    gettext_noop("a divisor of hidden_size (%(hidden_size)s)"),
    gettext_noop("hidden_size (%(hidden_size)s): no projected embedding"),
    gettext_noop("false (per-head norms of StableLM are not supported yet)"),
    gettext_noop("false (per-head norms of Cohere are not supported yet)"),
    gettext_noop("true (MPT with biases is not supported yet)"),
    gettext_noop("at most %(count)s parameters"),
    gettext_noop("at most %(count)s: the model's learned positions"),
    gettext_noop("a precision of %(accelerator)s: %(names)s"),
    # devices and plans
    gettext_noop("whole nodes of %(count)s devices"),
    gettext_noop("within a node one of %(counts)s"),
    gettext_noop("at most %(count)s devices"),
    gettext_noop("a count over which batch, heads and layers divide (found: %(reasons)s)"),
    gettext_noop("sizes whose product is the %(count)s accelerators asked for"),
    gettext_noop("a plan whose tensor × pipeline × data × context sizes make the %(count)s devices asked for"),
    gettext_noop("1 (dense models only in this version)"),
    gettext_noop("1 without pipeline parallelism"),
    gettext_noop("false without tensor parallelism"),
    gettext_noop("a divisor or a multiple of num_key_value_heads (%(heads)s)"),
    gettext_noop("a divisor of the devices in a node (%(count)s)"),
    gettext_noop(
        "sequence_length (%(length)s) divisible by context_parallel, and with sequence parallelism by "
        "tensor_parallel, too"
    ),
    gettext_noop(
        "pipeline_parallel x virtual_stages dividing the layers (%(layers)s), or the layers + 2 (embedding and head "
        "counted as one layer each)"
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
