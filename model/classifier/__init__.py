"""The sentence classifier: a state for each sentence, and heads that turn states into labels or scores."""
