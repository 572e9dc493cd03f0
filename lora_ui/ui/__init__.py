"""The web page. Imports Gradio and never torch. Nothing is reported to anyone: the switches are set before Gradio is imported."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_SHARE"] = "False"
