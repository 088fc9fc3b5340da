"""Texts that come from files, on a terminal."""


def printable(text: str | None) -> str:
    r"""Write out what would end a line or a column, or would be an order to the terminal.

    Args:
        text: Names of classes and files may be anything.

    Returns:
        The same; what cannot be printed as Python writes it.

    Example:
        >>> printable("cat"), printable("a\tb\x1b[2J")
        ('cat', 'a\\tb\\x1b[2J')
    """
    letters: list[str] = []
    for letter in str(text):
        letters.append(letter if letter.isprintable() else repr(letter)[1:-1])
    return "".join(letters)
