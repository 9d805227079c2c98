"""Words of the English sentences that the mock generates."""

_ADJECTIVES = """
old new small great quiet bright dark warm cold gentle strong simple strange familiar distant modern ancient golden
grand busy empty open hidden narrow wide deep early late soft clear bold rare
"""
_NOUNS = """
city river street bridge garden house window door market station tower harbor hill valley forest field shore sky light
morning evening winter summer song story letter picture table journey stranger neighbor artist writer teacher child
friend crowd road village island mountain machine engine clock mirror
"""
_VERBS = """
follows keeps finds leaves meets holds carries watches remembers changes reaches crosses shows gives takes makes turns
brings calls hears knows sees wants builds opens closes fills moves
"""
SENTENCE = tuple(
    tuple(words.split())
    for words in ("The", _ADJECTIVES, _NOUNS, _VERBS, "the", _ADJECTIVES, _NOUNS, "and", _VERBS, "its", _NOUNS)
)
"""Alternatives for each word of a sentence. A full stop follows."""
