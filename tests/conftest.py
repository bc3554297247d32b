"""What holds for all tests."""

from hypothesis import settings

# A machine that is busy is no error, and a law that is broken shows itself soon.
settings.register_profile("nbdfork", deadline=None, max_examples=60)
settings.load_profile("nbdfork")
