"""`python -m lora_ui …`: see `python -m lora_ui --help`."""

from lora_ui.cli import main

if __name__ == "__main__":
    main()
