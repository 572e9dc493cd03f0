"""From what a person brings to canonical rows on disk: read, recognise, map, check, report.

Stops at rows of messages or text under `datasets/<digest>/`; tokens are made by `worker/prepare.py` and found again through
`data/prepared.py`. Nothing here imports torch, transformers or datasets.
"""

from lora_ui.data.checks import load
from lora_ui.data.store import EXAMPLE, Dataset, Told, every_row, forget_mapping, open, peek, rows
from lora_ui.data.uploads import store_text, store_upload

__all__ = ["EXAMPLE", "Dataset", "Told", "every_row", "forget_mapping", "load", "open", "peek", "rows", "store_text", "store_upload"]
