"""Post-training quantization: calibration, equalization, correction, learned rounding."""
