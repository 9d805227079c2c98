"""Words that are one token each."""

import re

WORD = re.compile(r" [a-z]{3,12}")
"""A blank and lower-case letters. Byte-level BPE vocabularies (GPT, Qwen, Llama 3) cut text before such a blank and
never merge over the cut, so words side by side stay the tokens that each is alone."""
