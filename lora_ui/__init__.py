"""LoRA UI: fine-tune language models with LoRA from a page or a terminal."""

__version__ = "0.1.0"
