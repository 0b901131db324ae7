"""What predictors and precisions are called on the command line, which loads nothing else for them."""

PREDICTORS = ("tensorflow", "openvino")
PRECISIONS = ("f32", "bf16", "int8")
