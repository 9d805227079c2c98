"""Estimates the tokens and sequences of a prompt from its JSON.

Text is counted by its bytes, token ids and lists by their elements. Pictures, audio, video and files count as fixed
numbers of tokens. Time is linear in the prompt, and memory is bounded."""

import msgspec

from picker.requestcontrol.apis import AUDIO_TOKENS, PICTURE_TOKENS

BYTES_PER_TOKEN = 4
"""Of JSON text, mostly English: the usual estimate."""

VIDEO_TOKENS = 8000
"""Judgement: 32 frames, the number that vLLM reads of a video by default, of some 250 tokens each (LLaVA-OneVision 196,
Qwen2-VL up to 768)."""

FILE_TOKENS = 2000
"""Of a document. Judgement: a page or two as text and as a picture."""

MAX_MEDIA = 999
"""Counted of one request: vLLM's default for `--limit-mm-per-prompt`, beyond which it responds 400."""

MAX_PROMPT_TOKENS = 4 << 20
"""Counted of one request: a text of the default body limit, 16 MiB."""

MAX_SEQUENCES = 256
"""Counted of one request: vLLM's default for `--max-num-seqs`, which a server runs at once."""

MAX_NODES = 50_000
"""Objects of a chat's messages that are searched for media: some 5 MiB of memory, 5 ms. A chat with more objects counts
as text."""

_DEPTH = 3
"""A chat's messages, the parts of a message, and the parts of a tool's result in it."""

_MAX_BRACKETS = 32
"""Brackets of a chat that are checked for a list of parts. A chat with more is parsed."""

_WINDOW_BYTES = 128
_WINDOWS = 16
_SHORT_BYTES = 4096
"""A shorter text is sampled by one window, in its middle."""

_ESCAPED_SHARE = 16
"""If more than one of this many bytes in the windows is a backslash, all escapes of the text are counted."""

_IDS = b"0123456789, \t\r\n[]"


class _Node(msgspec.Struct, gc=False):
    """A message or a part of one: the fields that may have further parts, and the fields of media."""

    text: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    content: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    image_url: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    image_pil: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    image_embeds: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input_audio: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    audio_url: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    audio_embeds: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    video_url: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    file: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    file_data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    source: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_MEDIA = (
    ("image_url", PICTURE_TOKENS),
    ("image_pil", PICTURE_TOKENS),
    ("image_embeds", PICTURE_TOKENS),
    ("source", PICTURE_TOKENS),
    ("input_audio", AUDIO_TOKENS),
    ("audio_url", AUDIO_TOKENS),
    ("audio_embeds", AUDIO_TOKENS),
    ("video_url", VIDEO_TOKENS),
    ("file", FILE_TOKENS),
    ("file_data", FILE_TOKENS),
)
"""Tokens by field. `source` is a picture or document of the Messages API."""

_nodes = msgspec.json.Decoder(list[_Node])
_raws = msgspec.json.Decoder(list[msgspec.Raw])


class Media:
    """Counts the media of a prompt: pictures, audio, videos and files."""

    __slots__ = ("count", "json_bytes", "tokens")

    def __init__(self) -> None:
        self.count = 0
        self.tokens = 0
        self.json_bytes = 0
        """Bytes that are not text: the media, and the bytes that escapes need beyond their text."""

    def count_in(self, nodes: bytes, depth: int = _DEPTH) -> None:
        """Counts the media in the JSON list `nodes`. A list that is not all objects has none."""
        try:
            found = _nodes.decode(nodes)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        for node in found:
            self._count_node(node)
            for raw in (node.text, node.content, node.output):
                if not raw:
                    continue
                inner = bytes(raw)
                if inner[:1] != b"[":
                    self.json_bytes += len(inner) - _text_bytes(inner)
                elif depth > 1:
                    self.count_in(inner, depth - 1)

    def _count_node(self, node: _Node) -> None:
        for field, tokens in _MEDIA:
            raw: msgspec.Raw | msgspec.UnsetType = getattr(node, field)
            if raw and (size := memoryview(raw).nbytes) > len(b"null"):
                self.json_bytes += size
                if self.count < MAX_MEDIA:
                    self.count += 1
                    self.tokens += tokens


def prompt_tokens(prompt: bytes) -> int:
    """Estimates the tokens of one field of a prompt, given as JSON."""
    if prompt.startswith(b"["):
        if (count := _listed_ids(prompt)) is not None:
            return count
        if _may_hold_parts(prompt) and prompt.count(b"{") <= MAX_NODES:
            media = Media()
            media.count_in(prompt)
            if media.count:
                return media.tokens + (len(prompt) - media.json_bytes) // BYTES_PER_TOKEN
    return _text_bytes(prompt) // BYTES_PER_TOKEN


def sequences(prompt: bytes) -> int:
    """Estimates the sequences of a prompt in which each element of a list is one; at most MAX_SEQUENCES."""
    if prompt[:1] != b"[":
        return 1
    first = prompt[1:64].lstrip()[:1]
    if first == b"[":
        return _bounded(prompt.count(b"[") - 1)
    if first == b"{":
        return _bounded(prompt.count(b"{"))
    if first == b'"':
        return _bounded(_strings(prompt))
    return 1


def _bounded(count: int) -> int:
    return max(1, min(MAX_SEQUENCES, count))


def _strings(prompt: bytes) -> int:
    """The number of strings in a list of strings. Quotes within them are escaped."""
    quotes = prompt.count(b'"')
    if b"\\" in prompt:
        quotes -= prompt.replace(b"\\\\", b"").count(b'\\"')
    return quotes // 2


def _listed_ids(prompt: bytes) -> int | None:
    """The number of token ids in a list of ids, or of lists of ids; None for any other list."""
    if prompt.startswith((b"[{", b'["')):
        return None
    if not prompt[1:64].lstrip(b" \t\r\n[")[:1].isdigit() or prompt.translate(None, _IDS):
        return None
    return prompt.count(b",") + 1


def _may_hold_parts(nodes: bytes) -> bool:
    """Whether the JSON `nodes` may have a list as a value or an element. Few texts have a bracket after a colon, a
    comma or a bracket."""
    at = 0
    for _ in range(_MAX_BRACKETS):
        at = nodes.find(b"[", at + 1)
        if at < 0:
            return False
        before = nodes[max(0, at - 8) : at].rstrip()
        if not before or before.endswith((b":", b",", b"[")):
            return True
    return True


def _text_bytes(text: bytes) -> int:
    """The bytes of the JSON `text` as UTF-8. Escapes are counted only if samples of the text have many of them."""
    size = len(text)
    if size < _SHORT_BYTES:
        middle = size // 2
        few = text.count(b"\\", middle, middle + _WINDOW_BYTES) * _ESCAPED_SHARE <= _WINDOW_BYTES
    else:
        stride = size // _WINDOWS
        escapes = 0
        for start in range(stride // 2, size, stride):
            escapes += text.count(b"\\", start, start + _WINDOW_BYTES)
        few = escapes * _ESCAPED_SHARE <= _WINDOWS * _WINDOW_BYTES
    return size if few else _unescaped_bytes(text)


def _unescaped_bytes(text: bytes) -> int:
    """The bytes of JSON text as UTF-8. An escape counts as one byte, `\\uXXXX` as three, two below U+1000, one below
    U+0100."""
    plain = text.replace(b"\\\\", b"/")
    count = plain.count
    unicode = count(b"\\u")
    return len(plain) - 3 * unicode - count(b"\\u0") - count(b"\\u00") - (count(b"\\") - unicode)
