"""The sentence classifier: states for sentences, and heads on top of them."""
