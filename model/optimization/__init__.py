"""Makes of a trained model one that other predictors than TensorFlow run."""
