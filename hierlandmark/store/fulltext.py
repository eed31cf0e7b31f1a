"""Words of a query, and the FTS5 expression that finds any of them."""

import unicodedata

# a query may be a whole document; later words add little to BM25 and cost a scan each
MAX_TERMS = 256


def terms(text: str) -> list[str]:
    """Lower-case words in order: runs of letters, digits and marks, as FTS5's unicode61 cuts them."""
    kept = (c if unicodedata.category(c)[0] in "LNM" else " " for c in unicodedata.normalize("NFC", text))
    return "".join(kept).lower().split()


def match_any(namespace_id: int, query: str) -> str | None:
    """FTS5 expression for rows of one namespace with any word of `query`; None when it has no word.

    Words are quoted, so that no query can be read as an operator.
    """
    words = list(dict.fromkeys(terms(query)))[:MAX_TERMS]
    if not words:
        return None
    alternatives = " OR ".join(f'"{word}"' for word in words)
    return f'namespace_id : "{namespace_id}" AND content : ({alternatives})'
