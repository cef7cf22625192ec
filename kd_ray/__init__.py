"""kd_ray: distributed knowledge distillation for speech, on Ray."""

__version__ = "0.1.0"
