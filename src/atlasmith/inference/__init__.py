"""Use a finished run: register or segment new images, or query the template; build a template in memory."""

from atlasmith.inference.image import predict, predict_all, register_image
from atlasmith.inference.modes import template_modes
from atlasmith.inference.prediction import Prediction
from atlasmith.inference.query import query_template
from atlasmith.inference.template import Template, build_template

__all__ = [
    "Prediction",
    "Template",
    "build_template",
    "predict",
    "predict_all",
    "query_template",
    "register_image",
    "template_modes",
]
