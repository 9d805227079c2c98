"""Counts what the JSON of a prompt is for a model server: tokens and sequences.

Text counts by its bytes, token ids and lists by their elements, pictures, audio, video and files by what models make of
them. All of it is an estimate, made in time linear in the prompt and with bounded memory."""

import msgspec

from picker.requestcontrol.apis import AUDIO_TOKENS, PICTURE_TOKENS

BYTES_PER_TOKEN = 4
"""Of JSON text around English: the usual estimate."""

VIDEO_TOKENS = 8000
"""32 frames, as many as vLLM takes of a video by default, of some 250 tokens each (LLaVA-OneVision 196, Qwen2-VL up to
768)."""

FILE_TOKENS = 2000
"""Of a document: judgement, a page or two as text and as a picture."""

MAX_MEDIA = 999
"""Counted of one request: vLLM's default for `--limit-mm-per-prompt`, beyond which it answers 400."""

MAX_PROMPT_TOKENS = 4 << 20
"""Counted of one request: as many as a body of the default limit, 16 MiB, has as text."""

MAX_SEQUENCES = 256
"""Counted of one request: vLLM's default for `--max-num-seqs`, all that a server runs at once."""

MAX_NODES = 50_000
"""Of objects in the messages of a chat that are looked into for pictures: some 5 MiB of memory, 5 ms. A chat of more
counts as text."""

_DEPTH = 3
"""A chat's messages, the parts of one, and the parts of a tool's result among those."""

_LOOKS = 32
"""At brackets of a chat for a list of parts. Beyond, the chat is parsed for them."""

_WINDOW_BYTES = 128
_WINDOWS = 16
_SHORT_BYTES = 4096
"""A shorter text is judged by one window, in its middle."""

_ESCAPED_SHARE = 16
"""Where more than this part of the windows is backslashes, the text is counted whole."""

_IDS = b"0123456789, \t\r\n[]"


class _Node(msgspec.Struct, gc=False):
    """A message, or a part of one: what may hold further parts, and what holds a picture, audio, a video or a file."""

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
"""`source` is the Messages API's, of pictures and documents."""

_nodes = msgspec.json.Decoder(list[_Node])
_raws = msgspec.json.Decoder(list[msgspec.Raw])


class Media:
    """What a prompt holds beside text."""

    __slots__ = ("count", "json_bytes", "tokens")

    def __init__(self) -> None:
        self.count = 0
        self.tokens = 0
        self.json_bytes = 0
        """Of its own, and what escapes take beyond the text that they stand for: none of it is text."""

    def look(self, nodes: bytes, depth: int = _DEPTH) -> None:
        """Count what the JSON list `nodes` holds. A list of anything but objects holds none."""
        try:
            found = _nodes.decode(nodes)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        for node in found:
            self._look_at(node)
            for raw in (node.text, node.content, node.output):
                if not raw:
                    continue
                inner = bytes(raw)
                if inner[:1] != b"[":
                    self.json_bytes += len(inner) - _text_bytes(inner)
                elif depth > 1:
                    self.look(inner, depth - 1)

    def _look_at(self, node: _Node) -> None:
        for field, tokens in _MEDIA:
            raw: msgspec.Raw | msgspec.UnsetType = getattr(node, field)
            if raw and (size := memoryview(raw).nbytes) > len(b"null"):
                self.json_bytes += size
                if self.count < MAX_MEDIA:
                    self.count += 1
                    self.tokens += tokens


def prompt_tokens(prompt: bytes) -> int:
    """Tokens of one field of a prompt, as its JSON."""
    if prompt.startswith(b"["):
        if (listed := _listed_ids(prompt)) is not None:
            return listed
        if _may_hold_parts(prompt) and prompt.count(b"{") <= MAX_NODES:
            media = Media()
            media.look(prompt)
            if media.count:
                return media.tokens + (len(prompt) - media.json_bytes) // BYTES_PER_TOKEN
    return _text_bytes(prompt) // BYTES_PER_TOKEN


def sequences(prompt: bytes) -> int:
    """How many sequences a prompt is of which each element of a list is one; at most MAX_SEQUENCES."""
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
    """Of a list of strings, how many. Quotes within them are escaped."""
    quotes = prompt.count(b'"')
    if b"\\" in prompt:
        quotes -= prompt.replace(b"\\\\", b"").count(b'\\"')
    return quotes // 2


def _listed_ids(prompt: bytes) -> int | None:
    """The number of token ids in a list of ids, or of lists of them; None for what is neither."""
    if prompt.startswith((b"[{", b'["')):
        return None
    if not prompt[1:64].lstrip(b" \t\r\n[")[:1].isdigit() or prompt.translate(None, _IDS):
        return None
    return prompt.count(b",") + 1


def _may_hold_parts(nodes: bytes) -> bool:
    """Whether a list may begin as a value or an element in the JSON `nodes`. Few texts have a bracket, and fewer after
    a colon, a comma or a bracket."""
    at = 0
    for _ in range(_LOOKS):
        at = nodes.find(b"[", at + 1)
        if at < 0:
            return False
        before = nodes[max(0, at - 8) : at].rstrip()
        if not before or before.endswith((b":", b",", b"[")):
            return True
    return True


def _text_bytes(text: bytes) -> int:
    """Bytes of `text` as UTF-8, as far as escapes make up much of it. A few windows of it tell whether they do."""
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
    """Bytes of JSON text as UTF-8: an escape is one, `\\uXXXX` is three, two below U+1000, and one below U+0100."""
    plain = text.replace(b"\\\\", b"/")
    count = plain.count
    unicode = count(b"\\u")
    return len(plain) - 3 * unicode - count(b"\\u0") - count(b"\\u00") - (count(b"\\") - unicode)
