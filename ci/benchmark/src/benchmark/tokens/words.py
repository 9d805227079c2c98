"""Words that are one token each."""

import re

WORD = re.compile(r" [a-z]{3,12}")
"""A blank and lower-case letters. Byte-level BPE vocabularies (GPT, Qwen, Llama 3) split text before such a blank and
never merge across the split. Adjacent words therefore keep the tokens that they have alone."""
