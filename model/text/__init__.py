"""Turns text into wordpiece ids, and sentences into windows."""
