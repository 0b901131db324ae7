"""Pretrained encoders: sepline's own BERT, Hugging Face checkpoints, TF Hub modules."""
