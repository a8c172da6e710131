"""Use a finished run: register or segment a new image, or query the template; build a template in memory."""

from atlasmith.inference.image import predict, register_image
from atlasmith.inference.query import query_template
from atlasmith.inference.template import Template, build_template

__all__ = ["Template", "build_template", "predict", "query_template", "register_image"]
