"""Build, train, fine-tune and serve a GPT: the package that minigpt's chapters write."""

__version__ = "0.1.0"
