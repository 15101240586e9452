"""The format of an API key: `<prefix>_<43 base62 characters><6 base62 characters of a CRC-32>`.

The 43 characters are 256 random bits. The last six are the CRC-32 of all that stands before them:
a typing error or a made-up key is refused without asking the database, and a scanner for leaked
keys can tell a key from a word. This is the shape that GitHub asks of tokens for its secret
scanning partner programme (GitHub documentation, "Secret scanning partner program").
"""

import hashlib
import re
import secrets
import string
import zlib

from provisioner.arguments import check_text

#: Digits, then upper-case, then lower-case letters: the digits of base 62 in ASCII order.
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase

RANDOM_LENGTH = 43
CHECKSUM_LENGTH = 6
#: Characters of the random part that may be shown; 220 bits stay unknown.
SHOWN_LENGTH = 6

_FORMAT = r"[a-z][a-z0-9]{1,9}_[0-9A-Za-z]{49}"

#: For scanners; its group is a key of ours only if the checksum agrees too. An escape before a key
#: (`%3d`, `\n`, `\u003d`, `\x0a`) ends in what may begin one, so that it is taken first. Without
#: look-around, which not every scanner has. `find_api_keys` is the exact one.
LEAK_PATTERN = (
    r"(?:%[0-9A-Fa-f]{2}|\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[abfnrtv]))?"
    rf"({_FORMAT})"
)

_KEY = re.compile(_FORMAT)
_BODY = re.compile(rf"_(?=[0-9A-Za-z]{{{RANDOM_LENGTH + CHECKSUM_LENGTH}}})")
_PREFIX_LENGTHS = range(10, 1, -1)


def checksum(text: str) -> str:
    """Return the CRC-32 of a text as six base62 digits, padded with zeros on the left."""
    number = zlib.crc32(text.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def generate_api_key(prefix: str) -> str:
    """Make a new key from the operating system's cryptographic generator.

    Args:
        prefix: 2 to 10 lower-case letters and digits, first a letter.
    """
    body = prefix + "_" + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    return body + checksum(body)


def is_well_formed(api_key: str) -> bool:
    """Whether a text has the format and the right checksum; says nothing about whose key it is."""
    body, end = api_key[:-CHECKSUM_LENGTH], api_key[-CHECKSUM_LENGTH:]
    return _KEY.fullmatch(api_key) is not None and checksum(body) == end


def find_api_keys(text: str) -> list[str]:
    """Return the keys in a text, in order, whatever they stand beside; the checksum decides.

    Raises:
        INVALID_PAYLOAD: it is no text.
    """
    check_text("text", text)
    found = []
    for body in _BODY.finditer(text):
        end = body.end() + RANDOM_LENGTH + CHECKSUM_LENGTH
        # Where a prefix begins cannot be seen: what stands before it may be letters too.
        candidates = (text[max(body.start() - length, 0) : end] for length in _PREFIX_LENGTHS)
        found += [key for key in dict.fromkeys(candidates) if is_well_formed(key)]
    return found


def digest(api_key: str) -> str:
    """Return what is stored of a key: its SHA-256 in hexadecimal.

    A slow hash would add nothing: 256 random bits cannot be guessed.
    """
    return hashlib.sha256(api_key.encode()).hexdigest()


def key_id(api_key_digest: str) -> str:
    """Return the id of a key, derived from its digest."""
    return "key_" + hashlib.sha256(api_key_digest.encode()).hexdigest()[:20]


def key_prefix(api_key: str) -> str:
    """Return the start of a key that may be shown, to tell keys apart."""
    prefix, _, body = api_key.partition("_")
    return f"{prefix}_{body[:SHOWN_LENGTH]}"
