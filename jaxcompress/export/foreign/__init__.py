"""Reads .tflite files that other tools wrote, as quantized models of leaf ops."""
