"""What can go wrong for a person: what happened, why, and what to do, in plain words.

Every class holds three English templates; `values` fills them. The page says the same in Chinese by looking up the class
name (`kind`) in `ui/words.yaml`. Programming mistakes are not listed here: they stay ordinary exceptions.
"""

from lora_ui.errors.error import LoraUIError as LoraUIError
from lora_ui.errors.error import Say as Say
from lora_ui.errors.error import again as again
from lora_ui.errors.error import fill as fill
from lora_ui.errors.inputs import *
from lora_ui.errors.models import *
from lora_ui.errors.work import *
