"""What ends the making of guests with a sentence."""


class Trouble(Exception):
    """The sentence: what is missing and what to do."""
