"""Build, train, fine-tune and serve a GPT: the package that the chapters of minigpt write together."""

__version__ = "0.1.0"
