"""The TensorFlow side of sepline: windows, tokens, encoder, classifier, training, bundle.

Nothing here imports Apache Beam. Modules import TensorFlow themselves, so that this package costs nothing to import.
"""

__version__ = "0.1.0"
