"""The TensorFlow side of sepline: windows, tokens, encoder, classifier, training, bundle.

Nothing here imports Apache Beam. The package itself imports nothing; modules that need TensorFlow import it.
"""

__version__ = "0.1.0"
