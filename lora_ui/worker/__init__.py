"""The island: the only code that imports torch, transformers, trl, peft and bitsandbytes. It runs as its own process, one per job."""
