"""A model as C++ sources for TensorFlow Lite for Microcontrollers (TFLM): see `octavo.bundle`."""
